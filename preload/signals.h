/* What the entries of signal calls share. */
#ifndef QUIRE_PRELOAD_SIGNALS_H
#define QUIRE_PRELOAD_SIGNALS_H

#include <signal.h>

/* sigprocmask(2) with the client's pointers, of which eight bytes are looked at: 0 or -errno. */
int signals_change_mask(int how, const sigset_t *set, sigset_t *old);

/* sigaltstack(2) has set a stack. */
void signals_note_stack(void);

#endif
