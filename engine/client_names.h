/*
 * Included before everything else where the engine compiles the sources of preload/: there libc's
 * names become names of functions that serve a client's call. REAL(name) still is libc's own, for
 * it goes by the text of the name (engine/real.c).
 */
#ifndef QUIRE_ENGINE_CLIENT_NAMES_H
#define QUIRE_ENGINE_CLIENT_NAMES_H

#define QUIRE_ENGINE 1

#define brk client_brk
#define close client_close
#define close_range client_close_range
#define closefrom client_closefrom
#define dup client_dup
#define dup2 client_dup2
#define dup3 client_dup3
#define madvise client_madvise
#define mmap client_mmap
#define mprotect client_mprotect
#define mremap client_mremap
#define munmap client_munmap
#define pkey_mprotect client_pkey_mprotect
#define remap_file_pages client_remap_file_pages
#define sbrk client_sbrk
#define shmat client_shmat
#define shmdt client_shmdt

#endif
