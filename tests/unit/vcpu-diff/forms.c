/* The instructions under test: families of mnemonics and operand patterns, expanded to forms. */
#include "tests/unit/vcpu-diff/diff.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cpuid.h>

/*
 * A pattern is a list of operands, each two letters, kind and size:
 *   E register or memory, G and R register, M memory, A accumulator, C the register CL,
 *   I signed immediate, J unsigned immediate, 1 the constant 1,
 *   W xmm register or memory, V and U xmm register, F any ST(i), f ST(0)
 *   Q mm register or memory, P and N mm register
 *   X and Y a list of 32-bit or 64-bit indices in a register of the size that follows
 *   b w d q x o t for 1, 2, 4, 8, 16, 32, 10 bytes; e s f g h i for images of 28, 108, 512, 832,
 *   14, 94 bytes;
 *   v for each of 2, 4, 8; y for each of 4, 8; z for v but at most 4; l for each of 16, 32
 * A pattern of '-' has no operands.
 */
#define CF 0x001u
#define PF 0x004u
#define AF 0x010u
#define ZF 0x040u
#define SF 0x080u
#define OF 0x800u

#define ALU_PATTERNS "Eb,Gb|Ev,Gv|Gb,Eb|Gv,Ev|Eb,Ib|Ev,Ib|Ev,Iz"
#define CONDITIONS(x)                                                                         \
	x "o " x "no " x "b " x "nb " x "z " x "nz " x "be " x "nbe " x "s " x "ns " x "p " x \
	  "np " x "l " x "nl " x "le " x "nle"

#define VEX_INTEGER                                                                            \
	"vpaddb vpaddw vpaddd vpaddq vpaddsb vpaddsw vpaddusb vpaddusw vpsubb vpsubw vpsubd "  \
	"vpsubq vpsubsb vpsubsw vpsubusb vpsubusw vpmullw vpmulhw vpmulhuw vpmuludq vpmaddwd " \
	"vpavgb vpavgw vpsadbw vpminub vpmaxub vpminsw vpmaxsw vpand vpandn vpor vpxor "       \
	"vpcmpeqb vpcmpeqw vpcmpeqd vpcmpgtb vpcmpgtw vpcmpgtd vpacksswb vpackssdw vpackuswb " \
	"vpackusdw vpunpcklbw vpunpcklwd vpunpckldq vpunpcklqdq vpunpckhbw vpunpckhwd "        \
	"vpunpckhdq vpunpckhqdq vphaddw vphaddd vphaddsw vphsubw vphsubd vphsubsw vpmaddubsw " \
	"vpmulhrsw vpsignb vpsignw vpsignd vpshufb vpmuldq vpmulld vpcmpeqq vpcmpgtq vpminsb " \
	"vpminuw vpminud vpminsd vpmaxsb vpmaxuw vpmaxud vpmaxsd"
#define VEX_SHIFTS "vpsllw vpslld vpsllq vpsrlw vpsrld vpsrlq vpsraw vpsrad"
#define FMA_ORDERS(op, type) "v" op "132" type " v" op "213" type " v" op "231" type " "
#define FMA_OPS(type)             \
	FMA_ORDERS("fmadd", type) \
	FMA_ORDERS("fmsub", type) FMA_ORDERS("fnmadd", type) FMA_ORDERS("fnmsub", type)

static const struct family families[] = {
    /* Integer. */
    {"add adc sub sbb", ALU_PATTERNS, 0, FORM_LOCK, 0},
    {"and or xor", ALU_PATTERNS, AF, FORM_LOCK, 0},
    {"cmp", ALU_PATTERNS, 0, 0, 0},
    {"test", "Eb,Gb|Ev,Gv|Eb,Ib|Ev,Iz", AF, 0, 0},
    {"inc dec neg not", "Eb|Ev", 0, FORM_LOCK, 0},
    {"mov", "Eb,Gb|Ev,Gv|Gb,Eb|Gv,Ev|Eb,Ib|Ev,Iz|Rq,Iq", 0, 0, 0},
    {"movzx movsx", "Gv,Eb|Gy,Ew", 0, 0, 0},
    {"movsxd", "Gq,Ed", 0, 0, 0},
    {"movbe", "Gv,Mv|Mv,Gv", 0, 0, FEATURE_MOVBE},
    {"movnti", "My,Gy", 0, 0, 0},
    {"lea", "Gy,My|Gw,Md|Gw,Mq", 0, 0, 0},
    {"bswap", "Ry", 0, 0, 0},
    {"xchg xadd", "Eb,Gb|Ev,Gv", 0, FORM_LOCK, 0},
    {"cmpxchg", "Eb,Gb|Ev,Gv", 0, FORM_LOCK, 0},
    {"cmpxchg8b", "Mq", 0, FORM_LOCK, 0},
    {"cmpxchg16b", "Mx", 0, FORM_LOCK, FEATURE_CX16},
    {"rol ror rcl rcr", "Eb,1b|Ev,1b", 0, 0, 0},
    {"rol ror rcl rcr", "Eb,Cb|Ev,Cb|Eb,Jb|Ev,Jb", OF, 0, 0},
    {"shl shr sar", "Eb,1b|Ev,1b", AF, 0, 0},
    {"shl shr sar", "Ey,Cb|Ey,Jb", AF | OF, 0, 0},
    {"shl shr", "Eb,Cb|Ew,Cb", AF | OF | CF, 0, 0},
    {"shl shr", "Eb,Jb|Ew,Jb", AF | OF, FORM_SMALL_COUNT, 0},
    {"sar", "Eb,Cb|Ew,Cb|Eb,Jb|Ew,Jb", AF | OF, 0, 0},
    {"shld shrd", "Ey,Gy,Jb|Ey,Gy,Cb", AF | OF, 0, 0},
    {"shld shrd", "Ew,Gw,Jb", AF | OF, FORM_SMALL_COUNT, 0},
    {"mul imul", "Eb|Ev", SF | ZF | AF | PF, 0, 0},
    {"imul", "Gv,Ev|Gv,Ev,Ib|Gv,Ev,Iz", SF | ZF | AF | PF, 0, 0},
    {"div idiv", "Eb|Ev", CF | PF | AF | ZF | SF | OF, FORM_DIVIDE, 0},
    {"bt", "Rv,Gv|Ev,Jb", OF | SF | AF | PF, 0, 0},
    {"bt", "Mv,Gv", OF | SF | AF | PF, FORM_BIT_OFFSET, 0},
    {"bts btr btc", "Rv,Gv|Ev,Jb", OF | SF | AF | PF, FORM_LOCK, 0},
    {"bts btr btc", "Mv,Gv", OF | SF | AF | PF, FORM_BIT_OFFSET | FORM_LOCK, 0},
    {"bsf bsr", "Gv,Ev", CF | OF | SF | AF | PF, FORM_RESULT_IF_SOURCE, 0},
    {CONDITIONS("set"), "Eb", 0, 0, 0},
    {CONDITIONS("cmov"), "Gv,Ev", 0, 0, 0},
    {"cbw cwde cdqe cwd cdq cqo clc stc cmc cld std nop", "-", 0, 0, 0},
    {"lahf sahf", "-", 0, 0, FEATURE_LAHF},
    {"push", "Rq|Rw|Mq|Mw|Ib|Id", 0, FORM_STACK, 0},
    {"pop", "Rq|Rw|Mq|Mw", 0, FORM_STACK, 0},
    {"leave", "-", 0, FORM_STACK, 0},
    {"movsb movsw movsq stosb stosw stosd stosq lodsb lodsw lodsd lodsq", "-", 0,
     FORM_STRING | FORM_REP, 0},
    {"cmpsb cmpsw cmpsq scasb scasw scasd scasq", "-", 0, FORM_STRING | FORM_REPE, 0},
    /* Bits. */
    {"popcnt", "Gv,Ev", 0, 0, FEATURE_POPCNT},
    {"lzcnt", "Gv,Ev", OF | SF | AF | PF, 0, FEATURE_LZCNT},
    {"tzcnt", "Gv,Ev", OF | SF | AF | PF, 0, FEATURE_BMI1},
    {"andn", "Gy,Gy,Ey", AF | PF, 0, FEATURE_BMI1},
    {"bextr", "Gy,Ey,Gy", AF | SF | PF, 0, FEATURE_BMI1},
    {"blsi blsmsk blsr", "Gy,Ey", AF | PF, 0, FEATURE_BMI1},
    {"bzhi", "Gy,Ey,Gy", AF | PF, 0, FEATURE_BMI2},
    {"mulx pdep pext", "Gy,Gy,Ey", 0, 0, FEATURE_BMI2},
    {"sarx shlx shrx", "Gy,Ey,Gy", 0, 0, FEATURE_BMI2},
    {"rorx", "Gy,Ey,Jb", 0, 0, FEATURE_BMI2},
    {"adcx adox", "Gy,Ey", 0, 0, FEATURE_ADX},
    {"crc32", "Gd,Eb|Gd,Ew|Gd,Ed|Gq,Eb|Gq,Eq", 0, 0, FEATURE_SSE42},
    /* SSE moves. */
    {"movaps movapd movdqa movups movupd movdqu", "Vx,Wx|Wx,Vx", 0, 0, 0},
    {"movss", "Vd,Wd|Wd,Vd", 0, 0, 0},
    {"movsd", "Vq,Wq|Wq,Vq", 0, 0, 0},
    {"movd", "Vx,Ed|Ed,Vx", 0, 0, 0},
    {"movq", "Vx,Eq|Eq,Vx|Vx,Wq|Wq,Vx", 0, 0, 0},
    {"movlps movhps movlpd movhpd", "Vx,Mq|Mq,Vx", 0, 0, 0},
    {"movhlps movlhps", "Vx,Ux", 0, 0, 0},
    {"movntps movntpd movntdq", "Mx,Vx", 0, 0, 0},
    {"movntdqa", "Vx,Mx", 0, 0, FEATURE_SSE41},
    {"lddqu", "Vx,Mx", 0, 0, FEATURE_SSE3},
    {"movddup", "Vx,Wq", 0, 0, FEATURE_SSE3},
    {"movshdup movsldup", "Vx,Wx", 0, 0, FEATURE_SSE3},
    {"maskmovdqu", "Vx,Ux", 0, FORM_STRING, 0},
    {"movmskps movmskpd pmovmskb", "Gd,Ux", 0, 0, 0},
    /* SSE integer. */
    {"paddb paddw paddd paddq paddsb paddsw paddusb paddusw psubb psubw psubd psubq psubsb psubsw "
     "psubusb psubusw pmullw pmulhw pmulhuw pmuludq pmaddwd pavgb pavgw psadbw pminub pmaxub "
     "pminsw pmaxsw pand pandn por pxor pcmpeqb pcmpeqw pcmpeqd pcmpgtb pcmpgtw pcmpgtd "
     "packsswb packssdw packuswb punpcklbw punpcklwd punpckldq punpcklqdq punpckhbw punpckhwd "
     "punpckhdq punpckhqdq",
     "Vx,Wx", 0, 0, 0},
    {"psllw pslld psllq psrlw psrld psrlq psraw psrad", "Vx,Wx|Vx,Jb", 0, 0, 0},
    {"pslldq psrldq", "Vx,Jb", 0, 0, 0},
    {"pshufd pshuflw pshufhw shufps shufpd", "Vx,Wx,Jb", 0, 0, 0},
    {"unpcklps unpckhps unpcklpd unpckhpd andps andpd andnps andnpd orps orpd xorps xorpd", "Vx,Wx",
     0, 0, 0},
    {"pinsrw", "Vx,Rd,Jb|Vx,Mw,Jb", 0, 0, 0},
    {"pextrw", "Gd,Ux,Jb", 0, 0, 0},
    {"pshufb phaddw phaddd phaddsw phsubw phsubd phsubsw pmaddubsw pmulhrsw psignb psignw psignd "
     "pabsb pabsw pabsd",
     "Vx,Wx", 0, 0, FEATURE_SSSE3},
    {"palignr", "Vx,Wx,Jb", 0, 0, FEATURE_SSSE3},
    {"pmuldq pmulld pcmpeqq packusdw pminsb pminuw pminud pminsd pmaxsb pmaxuw pmaxud pmaxsd "
     "phminposuw ptest",
     "Vx,Wx", 0, 0, FEATURE_SSE41},
    {"pcmpgtq", "Vx,Wx", 0, 0, FEATURE_SSE42},
    {"pmovsxbw pmovsxwd pmovsxdq pmovzxbw pmovzxwd pmovzxdq", "Vx,Wq", 0, 0, FEATURE_SSE41},
    {"pmovsxbd pmovsxwq pmovzxbd pmovzxwq", "Vx,Wd", 0, 0, FEATURE_SSE41},
    {"pmovsxbq pmovzxbq", "Vx,Ww", 0, 0, FEATURE_SSE41},
    {"pblendvb blendvps blendvpd", "Vx,Wx", 0, 0, FEATURE_SSE41},
    {"pblendw blendps blendpd mpsadbw", "Vx,Wx,Jb", 0, 0, FEATURE_SSE41},
    {"pinsrb", "Vx,Rd,Jb|Vx,Mb,Jb", 0, 0, FEATURE_SSE41},
    {"pinsrd", "Vx,Ed,Jb", 0, 0, FEATURE_SSE41},
    {"pinsrq", "Vx,Eq,Jb", 0, 0, FEATURE_SSE41},
    {"pextrb", "Rd,Vx,Jb|Mb,Vx,Jb", 0, 0, FEATURE_SSE41},
    {"pextrw", "Mw,Vx,Jb", 0, 0, FEATURE_SSE41},
    {"pextrd extractps", "Ed,Vx,Jb", 0, 0, FEATURE_SSE41},
    {"pextrq", "Eq,Vx,Jb", 0, 0, FEATURE_SSE41},
    {"insertps", "Vx,Wd,Jb", 0, 0, FEATURE_SSE41},
    {"pcmpestri pcmpestrm pcmpistri pcmpistrm", "Vx,Wx,Jb", 0, 0, FEATURE_SSE42},
    {"pclmulqdq", "Vx,Wx,Jb", 0, 0, FEATURE_PCLMUL},
    /* SSE floating point. */
    {"addps subps mulps divps minps maxps sqrtps addpd subpd mulpd divpd minpd maxpd sqrtpd "
     "cvtdq2ps cvtps2dq cvttps2dq cvtpd2ps cvtpd2dq cvttpd2dq",
     "Vx,Wx", 0, FORM_FLOAT, 0},
    {"addss subss mulss divss minss maxss sqrtss comiss ucomiss cvtss2sd", "Vx,Wd", 0, FORM_FLOAT,
     0},
    {"addsd subsd mulsd divsd minsd maxsd sqrtsd comisd ucomisd cvtsd2ss cvtdq2pd cvtps2pd",
     "Vx,Wq", 0, FORM_FLOAT, 0},
    {"rcpps rsqrtps", "Vx,Wx", 0, FORM_FLOAT, 0},
    {"rcpss rsqrtss", "Vx,Wd", 0, FORM_FLOAT, 0},
    {"cvtsi2ss cvtsi2sd", "Vx,Ey", 0, FORM_FLOAT, 0},
    {"cvtss2si cvttss2si", "Gy,Wd", 0, FORM_FLOAT, 0},
    {"cvtsd2si cvttsd2si", "Gy,Wq", 0, FORM_FLOAT, 0},
    {"cmpps cmppd", "Vx,Wx,Jb", 0, FORM_FLOAT, 0},
    {"cmpss", "Vx,Wd,Jb", 0, FORM_FLOAT, 0},
    {"cmpsd", "Vx,Wq,Jb", 0, FORM_FLOAT, 0},
    {"haddps haddpd hsubps hsubpd addsubps addsubpd", "Vx,Wx", 0, FORM_FLOAT, FEATURE_SSE3},
    {"roundps roundpd", "Vx,Wx,Jb", 0, FORM_FLOAT, FEATURE_SSE41},
    {"dpps dppd", "Vx,Wx,Jb", 0, FORM_FLOAT | FORM_MASKED, FEATURE_SSE41},
    {"roundss", "Vx,Wd,Jb", 0, FORM_FLOAT, FEATURE_SSE41},
    {"roundsd", "Vx,Wq,Jb", 0, FORM_FLOAT, FEATURE_SSE41},
    {"ldmxcsr stmxcsr", "Md", 0, FORM_FLOAT, 0},
    /* x87. */
    {"fadd fsub fsubr fmul fdiv fdivr", "fx,Fx|Fx,fx|Md|Mq", 0, FORM_X87, 0},
    {"faddp fsubp fsubrp fmulp fdivp fdivrp", "Fx,fx", 0, FORM_X87, 0},
    {"fiadd fisub fisubr fimul fidiv fidivr ficom ficomp", "Mw|Md", 0, FORM_X87, 0},
    {"fld fstp", "Fx|Md|Mq|Mt", 0, FORM_X87, 0},
    {"fst", "Fx|Md|Mq", 0, FORM_X87, 0},
    {"fild fistp fisttp", "Mw|Md|Mq", 0, FORM_X87, FEATURE_SSE3},
    {"fist", "Mw|Md", 0, FORM_X87, 0},
    {"fcom fcomp", "Fx|Md|Mq", 0, FORM_X87, 0},
    {"fcomi fcomip fucomi fucomip fucomp", "fx,Fx", 0, FORM_X87, 0},
    {"fucom fxch", "Fx", 0, FORM_X87, 0},
    {"fcmovb fcmove fcmovbe fcmovu fcmovnb fcmovne fcmovnbe fcmovnu", "fx,Fx", 0, FORM_X87, 0},
    {"fcompp fucompp fld1 fldz fldpi fldl2e fldl2t fldlg2 fldln2 fchs fabs fsqrt frndint fscale "
     "fprem fprem1 ftst fxam fxtract fsin fcos fsincos fptan fpatan f2xm1 fyl2x fyl2xp1 fincstp "
     "fdecstp fninit fnclex fnop fwait emms",
     "-", 0, FORM_X87, 0},
    {"ffree", "Fx", 0, FORM_X87, 0},
    {"fbld fbstp", "Mt", 0, FORM_X87, 0},
    {"fldenv fnstenv", "Me|Mh", 0, FORM_X87, 0},
    {"frstor fnsave", "Ms|Mi", 0, FORM_X87, 0},
    /* MMX. */
    {"paddb paddw paddd paddsb paddsw paddusb paddusw psubb psubw psubd psubsb psubsw psubusb "
     "psubusw pmullw pmulhw pmaddwd pand pandn por pxor pcmpeqb pcmpeqw pcmpeqd pcmpgtb pcmpgtw "
     "pcmpgtd packsswb packssdw packuswb punpckhbw punpckhwd punpckhdq psllw pslld psllq psrlw "
     "psrld psrlq psraw psrad pmulhuw pavgb pavgw psadbw pminub pmaxub pminsw pmaxsw paddq psubq "
     "pmuludq",
     "Pq,Qq", 0, FORM_X87, 0},
    {"punpcklbw punpcklwd punpckldq", "Pq,Qd", 0, FORM_X87, 0},
    {"psllw pslld psllq psrlw psrld psrlq psraw psrad", "Nq,Jb", 0, FORM_X87, 0},
    {"phaddw phaddd phaddsw phsubw phsubd phsubsw pmaddubsw pmulhrsw psignb psignw psignd pabsb "
     "pabsw pabsd pshufb",
     "Pq,Qq", 0, FORM_X87, FEATURE_SSSE3},
    {"pshufw", "Pq,Qq,Jb", 0, FORM_X87, 0},
    {"palignr", "Pq,Qq,Jb", 0, FORM_X87, FEATURE_SSSE3},
    {"movd", "Pq,Ed|Ed,Pq", 0, FORM_X87, 0},
    {"movq", "Pq,Qq|Qq,Pq|Pq,Eq|Eq,Pq", 0, FORM_X87, 0},
    {"movntq", "Mq,Pq", 0, FORM_X87, 0},
    {"movdq2q", "Pq,Ux", 0, FORM_X87, 0},
    {"movq2dq", "Vx,Nq", 0, FORM_X87, 0},
    {"pmovmskb", "Gd,Nq", 0, FORM_X87, 0},
    {"pinsrw", "Pq,Rd,Jb|Pq,Mw,Jb", 0, FORM_X87, 0},
    {"pextrw", "Gd,Nq,Jb", 0, FORM_X87, 0},
    {"maskmovq", "Pq,Nq", 0, FORM_STRING | FORM_X87, 0},
    {"cvtpi2ps cvtpi2pd", "Vx,Qq", 0, FORM_X87, 0},
    {"cvtps2pi cvttps2pi", "Pq,Wq", 0, FORM_X87, 0},
    {"cvtpd2pi cvttpd2pi", "Pq,Wx", 0, FORM_X87, 0},
    {"fxsave fxsave64 fxrstor fxrstor64", "Mf", 0, FORM_X87 | FORM_IMAGE, 0},
    /* AVX and AVX2: moves. */
    {"vmovaps vmovapd vmovdqa vmovups vmovupd vmovdqu", "Vl,Wl|Wl,Vl", 0, FORM_EDGE, FEATURE_AVX},
    {"vmovntps vmovntpd vmovntdq", "Ml,Vl", 0, FORM_EDGE, FEATURE_AVX},
    {"vmovntdqa", "Vx,Mx", 0, FORM_EDGE, FEATURE_AVX},
    {"vmovntdqa", "Vo,Mo", 0, FORM_EDGE, FEATURE_AVX2},
    {"vlddqu", "Vl,Ml", 0, FORM_EDGE, FEATURE_AVX},
    {"vmovss", "Vx,Md|Md,Vx|Vx,Vx,Ux", 0, FORM_EDGE, FEATURE_AVX},
    {"vmovsd", "Vx,Mq|Mq,Vx|Vx,Vx,Ux", 0, FORM_EDGE, FEATURE_AVX},
    {"vmovd", "Vx,Ed|Ed,Vx", 0, FORM_EDGE, FEATURE_AVX},
    {"vmovq", "Vx,Eq|Eq,Vx|Vx,Wq|Wq,Vx", 0, FORM_EDGE, FEATURE_AVX},
    {"vmovlps vmovhps vmovlpd vmovhpd", "Vx,Vx,Mq|Mq,Vx", 0, FORM_EDGE, FEATURE_AVX},
    {"vmovhlps vmovlhps", "Vx,Vx,Ux", 0, 0, FEATURE_AVX},
    {"vmovddup", "Vx,Wq|Vo,Wo", 0, FORM_EDGE, FEATURE_AVX},
    {"vmovshdup vmovsldup", "Vl,Wl", 0, FORM_EDGE, FEATURE_AVX},
    {"vmaskmovdqu", "Vx,Ux", 0, FORM_STRING, FEATURE_AVX},
    {"vmovmskps vmovmskpd", "Gd,Ul", 0, 0, FEATURE_AVX},
    {"vpmovmskb", "Gd,Ux", 0, 0, FEATURE_AVX},
    {"vpmovmskb", "Gd,Uo", 0, 0, FEATURE_AVX2},
    {"vzeroall vzeroupper", "-", 0, 0, FEATURE_AVX},
    {"vldmxcsr vstmxcsr", "Md", 0, FORM_FLOAT, FEATURE_AVX},
    {"vmaskmovps vmaskmovpd", "Vl,Vl,Ml|Ml,Vl,Vl", 0, FORM_EDGE, FEATURE_AVX},
    {"vpmaskmovd vpmaskmovq", "Vl,Vl,Ml|Ml,Vl,Vl", 0, FORM_EDGE, FEATURE_AVX2},
    {"vgatherdps vpgatherdd", "Vx,Xx,Vx|Vo,Xo,Vo", 0, FORM_EDGE, FEATURE_AVX2},
    {"vgatherdpd vpgatherdq", "Vx,Xx,Vx|Vo,Xx,Vo", 0, FORM_EDGE, FEATURE_AVX2},
    {"vgatherqps vpgatherqd", "Vx,Yx,Vx|Vx,Yo,Vx", 0, FORM_EDGE, FEATURE_AVX2},
    {"vgatherqpd vpgatherqq", "Vx,Yx,Vx|Vo,Yo,Vo", 0, FORM_EDGE, FEATURE_AVX2},
    /* Integer. */
    {VEX_INTEGER, "Vx,Vx,Wx", 0, FORM_EDGE, FEATURE_AVX},
    {VEX_INTEGER, "Vo,Vo,Wo", 0, FORM_EDGE, FEATURE_AVX2},
    {"vpabsb vpabsw vpabsd", "Vx,Wx", 0, FORM_EDGE, FEATURE_AVX},
    {"vpabsb vpabsw vpabsd", "Vo,Wo", 0, FORM_EDGE, FEATURE_AVX2},
    {"vphminposuw", "Vx,Wx", 0, FORM_EDGE, FEATURE_AVX},
    {"vptest vtestps vtestpd", "Vl,Wl", 0, FORM_EDGE, FEATURE_AVX},
    {VEX_SHIFTS, "Vx,Vx,Wx|Vx,Ux,Jb", 0, FORM_EDGE, FEATURE_AVX},
    {VEX_SHIFTS, "Vo,Vo,Wx|Vo,Uo,Jb", 0, FORM_EDGE, FEATURE_AVX2},
    {"vpslldq vpsrldq", "Vx,Ux,Jb", 0, 0, FEATURE_AVX},
    {"vpslldq vpsrldq", "Vo,Uo,Jb", 0, 0, FEATURE_AVX2},
    {"vpsllvd vpsllvq vpsrlvd vpsrlvq vpsravd", "Vl,Vl,Wl", 0, FORM_EDGE, FEATURE_AVX2},
    {"vpclmulqdq", "Vx,Vx,Wx,Jb", 0, FORM_EDGE, FEATURE_AVX_PCLMUL},
    {"vpcmpestri vpcmpestrm vpcmpistri vpcmpistrm", "Vx,Wx,Jb", 0, FORM_EDGE, FEATURE_AVX},
    /* Shuffles. */
    {"vpshufd vpshuflw vpshufhw", "Vx,Wx,Jb", 0, FORM_EDGE, FEATURE_AVX},
    {"vpshufd vpshuflw vpshufhw", "Vo,Wo,Jb", 0, FORM_EDGE, FEATURE_AVX2},
    {"vpalignr vpblendw vmpsadbw", "Vx,Vx,Wx,Jb", 0, FORM_EDGE, FEATURE_AVX},
    {"vpalignr vpblendw vmpsadbw", "Vo,Vo,Wo,Jb", 0, FORM_EDGE, FEATURE_AVX2},
    {"vshufps vshufpd vblendps vblendpd", "Vl,Vl,Wl,Jb", 0, FORM_EDGE, FEATURE_AVX},
    {"vunpcklps vunpckhps vunpcklpd vunpckhpd vandps vandpd vandnps vandnpd vorps vorpd vxorps "
     "vxorpd",
     "Vl,Vl,Wl", 0, FORM_EDGE, FEATURE_AVX},
    {"vpmovsxbw vpmovsxwd vpmovsxdq vpmovzxbw vpmovzxwd vpmovzxdq", "Vx,Wq", 0, FORM_EDGE,
     FEATURE_AVX},
    {"vpmovsxbd vpmovsxwq vpmovzxbd vpmovzxwq", "Vx,Wd", 0, FORM_EDGE, FEATURE_AVX},
    {"vpmovsxbq vpmovzxbq", "Vx,Ww", 0, FORM_EDGE, FEATURE_AVX},
    {"vpmovsxbw vpmovsxwd vpmovsxdq vpmovzxbw vpmovzxwd vpmovzxdq", "Vo,Wx", 0, FORM_EDGE,
     FEATURE_AVX2},
    {"vpmovsxbd vpmovsxwq vpmovzxbd vpmovzxwq", "Vo,Wq", 0, FORM_EDGE, FEATURE_AVX2},
    {"vpmovsxbq vpmovzxbq", "Vo,Wd", 0, FORM_EDGE, FEATURE_AVX2},
    {"vblendvps vblendvpd", "Vl,Vl,Wl,Vl", 0, FORM_EDGE, FEATURE_AVX},
    {"vpblendvb", "Vx,Vx,Wx,Vx", 0, FORM_EDGE, FEATURE_AVX},
    {"vpblendvb", "Vo,Vo,Wo,Vo", 0, FORM_EDGE, FEATURE_AVX2},
    {"vpblendd", "Vl,Vl,Wl,Jb", 0, FORM_EDGE, FEATURE_AVX2},
    {"vpinsrb", "Vx,Vx,Rd,Jb|Vx,Vx,Mb,Jb", 0, FORM_EDGE, FEATURE_AVX},
    {"vpinsrw", "Vx,Vx,Rd,Jb|Vx,Vx,Mw,Jb", 0, FORM_EDGE, FEATURE_AVX},
    {"vpinsrd", "Vx,Vx,Ed,Jb", 0, FORM_EDGE, FEATURE_AVX},
    {"vpinsrq", "Vx,Vx,Eq,Jb", 0, FORM_EDGE, FEATURE_AVX},
    {"vpextrb", "Rd,Vx,Jb|Mb,Vx,Jb", 0, FORM_EDGE, FEATURE_AVX},
    {"vpextrw", "Gd,Ux,Jb|Mw,Vx,Jb", 0, FORM_EDGE, FEATURE_AVX},
    {"vpextrd vextractps", "Ed,Vx,Jb", 0, FORM_EDGE, FEATURE_AVX},
    {"vpextrq", "Eq,Vx,Jb", 0, FORM_EDGE, FEATURE_AVX},
    {"vinsertps", "Vx,Vx,Wd,Jb", 0, FORM_EDGE, FEATURE_AVX},
    {"vinsertf128", "Vo,Vo,Wx,Jb", 0, FORM_EDGE, FEATURE_AVX},
    {"vinserti128", "Vo,Vo,Wx,Jb", 0, FORM_EDGE, FEATURE_AVX2},
    {"vextractf128", "Wx,Vo,Jb", 0, FORM_EDGE, FEATURE_AVX},
    {"vextracti128", "Wx,Vo,Jb", 0, FORM_EDGE, FEATURE_AVX2},
    {"vperm2f128", "Vo,Vo,Wo,Jb", 0, FORM_EDGE, FEATURE_AVX},
    {"vperm2i128", "Vo,Vo,Wo,Jb", 0, FORM_EDGE, FEATURE_AVX2},
    {"vpermilps vpermilpd", "Vl,Vl,Wl|Vl,Wl,Jb", 0, FORM_EDGE, FEATURE_AVX},
    {"vpermd vpermps", "Vo,Vo,Wo", 0, FORM_EDGE, FEATURE_AVX2},
    {"vpermq vpermpd", "Vo,Wo,Jb", 0, FORM_EDGE, FEATURE_AVX2},
    {"vbroadcastss", "Vl,Md", 0, FORM_EDGE, FEATURE_AVX},
    {"vbroadcastsd", "Vo,Mq", 0, FORM_EDGE, FEATURE_AVX},
    {"vbroadcastf128", "Vo,Mx", 0, FORM_EDGE, FEATURE_AVX},
    {"vbroadcastss", "Vl,Ux", 0, 0, FEATURE_AVX2},
    {"vbroadcastsd", "Vo,Ux", 0, 0, FEATURE_AVX2},
    {"vbroadcasti128", "Vo,Mx", 0, FORM_EDGE, FEATURE_AVX2},
    {"vpbroadcastb", "Vl,Wb", 0, FORM_EDGE, FEATURE_AVX2},
    {"vpbroadcastw", "Vl,Ww", 0, FORM_EDGE, FEATURE_AVX2},
    {"vpbroadcastd", "Vl,Wd", 0, FORM_EDGE, FEATURE_AVX2},
    {"vpbroadcastq", "Vl,Wq", 0, FORM_EDGE, FEATURE_AVX2},
    /* Floating point. */
    {"vaddps vsubps vmulps vdivps vminps vmaxps vaddpd vsubpd vmulpd vdivpd vminpd vmaxpd vhaddps "
     "vhaddpd vhsubps vhsubpd vaddsubps vaddsubpd",
     "Vl,Vl,Wl", 0, FORM_FLOAT | FORM_EDGE, FEATURE_AVX},
    {"vsqrtps vsqrtpd vcvtdq2ps vcvtps2dq vcvttps2dq vrcpps vrsqrtps", "Vl,Wl", 0,
     FORM_FLOAT | FORM_EDGE, FEATURE_AVX},
    {"vaddss vsubss vmulss vdivss vminss vmaxss vsqrtss vcvtss2sd vrcpss vrsqrtss", "Vx,Vx,Wd", 0,
     FORM_FLOAT | FORM_EDGE, FEATURE_AVX},
    {"vaddsd vsubsd vmulsd vdivsd vminsd vmaxsd vsqrtsd vcvtsd2ss", "Vx,Vx,Wq", 0,
     FORM_FLOAT | FORM_EDGE, FEATURE_AVX},
    {"vcomiss vucomiss", "Vx,Wd", 0, FORM_FLOAT | FORM_EDGE, FEATURE_AVX},
    {"vcomisd vucomisd", "Vx,Wq", 0, FORM_FLOAT | FORM_EDGE, FEATURE_AVX},
    {"vcvtdq2pd vcvtps2pd", "Vx,Wq|Vo,Wx", 0, FORM_FLOAT | FORM_EDGE, FEATURE_AVX},
    {"vcvtpd2ps vcvtpd2dq vcvttpd2dq", "Vx,Wl", 0, FORM_FLOAT | FORM_EDGE, FEATURE_AVX},
    {"vcvtsi2ss vcvtsi2sd", "Vx,Vx,Ey", 0, FORM_FLOAT | FORM_EDGE, FEATURE_AVX},
    {"vcvtss2si vcvttss2si", "Gy,Wd", 0, FORM_FLOAT | FORM_EDGE, FEATURE_AVX},
    {"vcvtsd2si vcvttsd2si", "Gy,Wq", 0, FORM_FLOAT | FORM_EDGE, FEATURE_AVX},
    {"vcmpps vcmppd", "Vl,Vl,Wl,Jb", 0, FORM_FLOAT | FORM_EDGE, FEATURE_AVX},
    {"vcmpss", "Vx,Vx,Wd,Jb", 0, FORM_FLOAT | FORM_EDGE, FEATURE_AVX},
    {"vcmpsd", "Vx,Vx,Wq,Jb", 0, FORM_FLOAT | FORM_EDGE, FEATURE_AVX},
    {"vroundps vroundpd", "Vl,Wl,Jb", 0, FORM_FLOAT | FORM_EDGE, FEATURE_AVX},
    {"vroundss", "Vx,Vx,Wd,Jb", 0, FORM_FLOAT | FORM_EDGE, FEATURE_AVX},
    {"vroundsd", "Vx,Vx,Wq,Jb", 0, FORM_FLOAT | FORM_EDGE, FEATURE_AVX},
    {"vdpps", "Vl,Vl,Wl,Jb", 0, FORM_FLOAT | FORM_MASKED | FORM_EDGE, FEATURE_AVX},
    {"vdppd", "Vx,Vx,Wx,Jb", 0, FORM_FLOAT | FORM_MASKED | FORM_EDGE, FEATURE_AVX},
    {FMA_OPS("ps") FMA_OPS("pd") FMA_ORDERS("fmaddsub", "ps") FMA_ORDERS("fmaddsub", "pd")
	 FMA_ORDERS("fmsubadd", "ps") "vfmsubadd132pd vfmsubadd213pd vfmsubadd231pd",
     "Vl,Vl,Wl", 0, FORM_FLOAT | FORM_EDGE, FEATURE_FMA},
    {FMA_OPS("ss"), "Vx,Vx,Wd", 0, FORM_FLOAT | FORM_EDGE, FEATURE_FMA},
    {FMA_OPS("sd"), "Vx,Vx,Wq", 0, FORM_FLOAT | FORM_EDGE, FEATURE_FMA},
    {"vcvtph2ps", "Vx,Wq|Vo,Wx", 0, FORM_FLOAT | FORM_EDGE, FEATURE_F16C},
    {"vcvtps2ph", "Wq,Vx,Jb|Wx,Vo,Jb", 0, FORM_FLOAT | FORM_EDGE, FEATURE_F16C},
    {"xsave xsave64 xrstor xrstor64", "Mg", 0, FORM_X87 | FORM_IMAGE, FEATURE_XSAVE},
    {"xsaveopt xsaveopt64", "Mg", 0, FORM_X87 | FORM_IMAGE, FEATURE_XSAVEOPT},
    {"xsavec xsavec64", "Mg", 0, FORM_X87 | FORM_IMAGE, FEATURE_XSAVEC},
    {"fldcw fnstcw", "Mw", 0, FORM_X87, 0},
    {"fnstsw", "Mw|Aw", 0, FORM_X87, 0},
};

static bool leaf_bit(uint32_t leaf, unsigned int which, unsigned int bit)
{
	uint32_t regs[4] = {0};

	/* The subleaf, where it is not 0, is in the top byte. */
	if (!__get_cpuid_count(leaf & 0x80ffffff, leaf >> 24 & 0x7f, &regs[0], &regs[1], &regs[2],
			       &regs[3]))
		return false;
	return (regs[which] >> bit) & 1;
}

/* CPUID takes long in a virtual machine: some 20 us, as much as all else that a case takes. So what
 * it says is kept. */
static bool find_ymm(void)
{
	uint32_t low = 0, high;

	if (leaf_bit(1, 2, 27)) /* XGETBV */
		asm volatile(".byte 0x0f, 0x01, 0xd0" : "=a"(low), "=d"(high) : "c"(0));
	return (low & 6) == 6 && leaf_bit(1, 2, 28);
}

bool has_ymm(void)
{
	static int found = -1;

	if (found < 0)
		found = find_ymm();
	return found;
}

static bool find_feature(enum feature feature)
{
	static const struct {
		uint32_t leaf;
		uint8_t reg, bit;
	} where[] = {
	    [FEATURE_BASE] = {1, 3, 26},
	    [FEATURE_SSE3] = {1, 2, 0},
	    [FEATURE_SSSE3] = {1, 2, 9},
	    [FEATURE_SSE41] = {1, 2, 19},
	    [FEATURE_SSE42] = {1, 2, 20},
	    [FEATURE_POPCNT] = {1, 2, 23},
	    [FEATURE_MOVBE] = {1, 2, 22},
	    [FEATURE_LZCNT] = {0x80000001, 2, 5},
	    [FEATURE_BMI1] = {7, 1, 3},
	    [FEATURE_BMI2] = {7, 1, 8},
	    [FEATURE_ADX] = {7, 1, 19},
	    [FEATURE_CX16] = {1, 2, 13},
	    [FEATURE_LAHF] = {0x80000001, 2, 0},
	    [FEATURE_PCLMUL] = {1, 2, 1},
	    [FEATURE_XSAVE] = {1, 2, 27},
	    [FEATURE_XSAVEOPT] = {0x0100000d, 0, 0},
	    [FEATURE_XSAVEC] = {0x0100000d, 0, 1},
	    [FEATURE_AVX] = {1, 2, 28},
	    [FEATURE_AVX2] = {7, 1, 5},
	    [FEATURE_FMA] = {1, 2, 12},
	    [FEATURE_F16C] = {1, 2, 29},
	    [FEATURE_AVX_PCLMUL] = {1, 2, 1},
	};

	if (feature >= FEATURE_AVX && !has_ymm())
		return false;
	return leaf_bit(where[feature].leaf, where[feature].reg, where[feature].bit);
}

bool feature_present(enum feature feature)
{
	static uint64_t asked, found;
	uint64_t bit = UINT64_C(1) << feature;

	if (!(asked & bit) && find_feature(feature))
		found |= bit;
	asked |= bit;
	return found & bit;
}

static ZydisMnemonic mnemonic_find(const char *name, size_t size)
{
	for (int i = 1; i <= ZYDIS_MNEMONIC_MAX_VALUE; i++) {
		const char *text = ZydisMnemonicGetString((ZydisMnemonic)i);

		if (text && strlen(text) == size && !memcmp(text, name, size))
			return (ZydisMnemonic)i;
	}
	fprintf(stderr, "vcpu-diff: no mnemonic '%.*s'\n", (int)size, name);
	return ZYDIS_MNEMONIC_INVALID;
}

/* Sizes a pattern stands for, as bits. */
static uint32_t pattern_sizes(const char *pattern, size_t size)
{
	if (memchr(pattern, 'v', size) || memchr(pattern, 'z', size))
		return 2 | 4 | 8;
	if (memchr(pattern, 'l', size))
		return 16 | 32;
	return memchr(pattern, 'y', size) ? 4 | 8 : 1;
}

struct form_list {
	struct form *forms;
	size_t count, room;
};

static bool form_add(struct form_list *list, const struct form *form)
{
	if (list->count == list->room) {
		size_t room = list->room ? 2 * list->room : 1024;
		struct form *forms = realloc(list->forms, room * sizeof(*forms));

		if (!forms)
			return false;
		list->forms = forms;
		list->room = room;
	}
	list->forms[list->count++] = *form;
	return true;
}

static bool family_expand(struct form_list *list, const struct family *family,
			  ZydisMnemonic mnemonic)
{
	for (const char *p = family->patterns; *p; p += *p == '|') {
		size_t size = strcspn(p, "|");
		uint32_t sizes = pattern_sizes(p, size);
		struct form form = {.family = family, .mnemonic = mnemonic};

		if (size >= sizeof(form.pattern))
			return false;
		memcpy(form.pattern, p, size);
		for (uint32_t bytes = 1; bytes <= 32; bytes *= 2) {
			form.size_bytes = bytes;
			if ((sizes & bytes) && !form_add(list, &form))
				return false;
		}
		p += size;
	}
	return true;
}

struct form *forms_expand(size_t *count)
{
	struct form_list list = {0};

	for (size_t i = 0; i < sizeof(families) / sizeof(families[0]); i++) {
		for (const char *p = families[i].mnemonics; *p; p += strspn(p, " ")) {
			size_t size = strcspn(p, " ");
			ZydisMnemonic mnemonic = mnemonic_find(p, size);

			if (mnemonic == ZYDIS_MNEMONIC_INVALID ||
			    !family_expand(&list, &families[i], mnemonic)) {
				free(list.forms);
				return NULL;
			}
			p += size;
		}
	}
	*count = list.count;
	return list.forms;
}
