/* The instruction decoder, which distributions have as a shared library alone. */
#ifndef QUIRE_ENGINE_DECODER_H
#define QUIRE_ENGINE_DECODER_H

/* Bring it into memory, once; while its file can still be reached. 0 or -errno. */
int decoder_load(void);

#endif
