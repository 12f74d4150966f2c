/* A map in the terminal, drawn anew again and again, with keys. */
#ifndef QUIRE_CLI_LOOK_LIVE_H
#define QUIRE_CLI_LOOK_LIVE_H

/* Until q is pressed or the program ends. @index: which VM of the process. The exit status. */
int live_view(const char *target, unsigned int index);

#endif
