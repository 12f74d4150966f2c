/* System call numbers newer than the headers of older distributions. */
#ifndef QUIRE_ENGINE_NUMBERS_H
#define QUIRE_ENGINE_NUMBERS_H

#define NUMBER_EPOLL_PWAIT2 441
#define NUMBER_FCHMODAT2 452

#endif
