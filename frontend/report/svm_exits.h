/* Names of the software CPU's exits, as the kernel prints them. */
#ifndef QUIRE_FRONTEND_REPORT_SVM_EXITS_H
#define QUIRE_FRONTEND_REPORT_SVM_EXITS_H

/* S(exit code of AMD's SVM, name) for each, with commas between them. */
#define SVM_EXITS                                                                       \
	S(0x41, "DB excp"), S(0x43, "BP excp"), S(0x60, "interrupt"), S(0x64, "vintr"), \
	    S(0x78, "hlt"), S(0x7b, "io"), S(0x7c, "msr"), S(0x7f, "shutdown"),         \
	    S(0x81, "hypercall"), S(0x400, "npf")

#endif
