/* From an address of this process to the file, its own address and the function there. */
#ifndef QUIRE_SANITIZE_SYMBOL_H
#define QUIRE_SANITIZE_SYMBOL_H

#include "sanitize/control.h"

/*
 * Fill @place in from its .address. The ELF file's symbols are read, static functions too, so that
 * a program needs no -rdynamic; what cannot be learnt stays empty. Makes system calls, takes no
 * memory of libc's. The caller holds off other threads: there is one buffer.
 */
void symbol_find(struct sanitize_place *place);

#endif
