/* The instruction decoder, which distributions have as a shared library alone. */
#ifndef QUIRE_VCPU_DECODE_DECODER_H
#define QUIRE_VCPU_DECODE_DECODER_H

/*
 * Its library is looked for beside @file, a file of ours, before the system's folders. Before the
 * first load, and while there is one thread.
 */
void decoder_look_beside(const char *file);

/*
 * Bring it into memory, once; while its file can still be reached. 0 or -errno, the same from then
 * on: without it no function of Zydis may be called but ZydisDecoderInit().
 */
int decoder_load(void);

#endif
