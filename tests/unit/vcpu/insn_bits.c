/* Which bit of CPUID an instruction needs: by mnemonic, from the processors' manuals. */
#include "tests/unit/vcpu/insn_bits.h"

#include <string.h>

#define SSE_OF_MMX                                                                                \
	"maskmovq movntq pavgb pavgw pextrw pinsrw pmaxsw pmaxub pminsw pminub pmovmskb pmulhuw " \
	"psadbw pshufw"

const struct insn_bit insn_bits[] = {
    {"fpu", 1, 0, 3, 0,
     "f2xm1 fabs fadd faddp fbld fbstp fchs fcom fcomp fcompp fcos fdecstp fdisi8087_nop fdiv "
     "fdivp fdivr fdivrp feni8087_nop ffree ffreep fiadd ficom ficomp fidiv fidivr fild fimul "
     "fincstp fist fistp fisub fisubr fld fld1 fldcw fldenv fldl2e fldl2t fldlg2 fldln2 fldpi "
     "fldz fmul fmulp fnclex fninit fnop fnsave fnstcw fnstenv fnstsw fpatan fprem fprem1 fptan "
     "frndint frstor fscale fsetpm287_nop fsin fsincos fsqrt fst fstp fstpnce fsub fsubp fsubr "
     "fsubrp ftst fucom fucomp fucompp fwait fxam fxch fxtract fyl2x fyl2xp1",
     ""},
    {"tsc", 1, 0, 3, 4, "rdtsc", ""},
    {"msr", 1, 0, 3, 5, "rdmsr wrmsr", ""},
    {"cx8", 1, 0, 3, 8, "cmpxchg8b", ""},
    {"sep", 1, 0, 3, 11, "sysenter sysexit", ""},
    {"cmov", 1, 0, 3, 15,
     "cmovb cmovbe cmovl cmovle cmovnb cmovnbe cmovnl cmovnle cmovno cmovnp cmovns cmovnz cmovo "
     "cmovp cmovs cmovz fcmovb fcmovbe fcmove fcmovnb fcmovnbe fcmovne fcmovnu fcmovu fcomi "
     "fcomip fucomi fucomip",
     ""},
    {"clflush", 1, 0, 3, 19, "clflush", ""},
    {"mmx", 1, 0, 3, 23, "emms",
     "movd movq packssdw packsswb packuswb paddb paddd paddsb paddsw paddusb paddusw paddw pand "
     "pandn pcmpeqb pcmpeqd pcmpeqw pcmpgtb pcmpgtd pcmpgtw pmaddwd pmulhw pmullw por pslld psllq "
     "psllw psrad psraw psrld psrlq psrlw psubb psubd psubsb psubsw psubusb psubusw psubw "
     "punpckhbw punpckhdq punpckhwd punpcklbw punpckldq punpcklwd pxor"},
    {"fxsr", 1, 0, 3, 24, "fxsave fxsave64 fxrstor fxrstor64", ""},
    {"sse", 1, 0, 3, 25,
     "addps addss andnps andps cmpps cmpss comiss cvtpi2ps cvtps2pi cvtsi2ss cvtss2si cvttps2pi "
     "cvttss2si divps divss ldmxcsr maxps maxss minps minss movaps movhlps movhps movlhps movlps "
     "movmskps movntps movss movups mulps mulss orps rcpps rcpss rsqrtps rsqrtss sfence shufps "
     "sqrtps sqrtss stmxcsr subps subss ucomiss unpckhps unpcklps xorps",
     SSE_OF_MMX},
    {"sse2", 1, 0, 3, 26,
     "addpd addsd andnpd andpd cmppd comisd cvtdq2pd cvtdq2ps cvtpd2dq cvtpd2pi cvtpd2ps cvtpi2pd "
     "cvtps2dq cvtps2pd cvtsd2si cvtsd2ss cvtsi2sd cvtss2sd cvttpd2dq cvttpd2pi cvttps2dq "
     "cvttsd2si divpd divsd lfence maskmovdqu maxpd maxsd mfence minpd minsd movapd movd movdq2q "
     "movdqa movdqu movhpd movlpd movmskpd movntdq movnti movntpd movq movq2dq movupd mulpd mulsd "
     "orpd packssdw packsswb packuswb paddb paddd paddq paddsb paddsw paddusb paddusw paddw pand "
     "pandn pavgb pavgw pcmpeqb pcmpeqd pcmpeqw pcmpgtb pcmpgtd pcmpgtw pextrw pinsrw pmaddwd "
     "pmaxsw pmaxub pminsw pminub pmovmskb pmulhuw pmulhw pmullw pmuludq por psadbw pshufd "
     "pshufhw pshuflw pslld pslldq psllq psllw psrad psraw psrld psrldq psrlq psrlw psubb psubd "
     "psubq psubsb psubsw psubusb psubusw psubw punpckhbw punpckhdq punpckhqdq punpckhwd "
     "punpcklbw punpckldq punpcklqdq punpcklwd pxor shufpd sqrtpd sqrtsd subpd subsd ucomisd "
     "unpckhpd unpcklpd xorpd",
     "paddq pmuludq psubq"},
    {"sse3", 1, 0, 2, 0,
     "addsubpd addsubps fisttp haddpd haddps hsubpd hsubps lddqu movddup movshdup movsldup", ""},
    {"pclmulqdq", 1, 0, 2, 1, "pclmulqdq vpclmulqdq", ""},
    {"ssse3", 1, 0, 2, 9,
     "pabsb pabsd pabsw palignr phaddd phaddsw phaddw phsubd phsubsw phsubw pmaddubsw pmulhrsw "
     "pshufb psignb psignd psignw",
     "pabsb pabsd pabsw palignr phaddd phaddsw phaddw phsubd phsubsw phsubw pmaddubsw pmulhrsw "
     "pshufb psignb psignd psignw"},
    {"cx16", 1, 0, 2, 13, "cmpxchg16b", ""},
    {"sse4.1", 1, 0, 2, 19,
     "blendpd blendps blendvpd blendvps dppd dpps extractps insertps movntdqa mpsadbw packusdw "
     "pblendvb pblendw pcmpeqq pextrb pextrd pextrq phminposuw pinsrb pinsrd pinsrq pmaxsb pmaxsd "
     "pmaxud pmaxuw pminsb pminsd pminud pminuw pmovsxbd pmovsxbq pmovsxbw pmovsxdq pmovsxwd "
     "pmovsxwq pmovzxbd pmovzxbq pmovzxbw pmovzxdq pmovzxwd pmovzxwq pmuldq pmulld ptest roundpd "
     "roundps roundsd roundss",
     ""},
    {"sse4.2", 1, 0, 2, 20, "crc32 pcmpestri pcmpestrm pcmpgtq pcmpistri pcmpistrm", ""},
    {"movbe", 1, 0, 2, 22, "movbe", ""},
    {"popcnt", 1, 0, 2, 23, "popcnt", ""},
    {"xsave", 1, 0, 2, 26, "xgetbv xsetbv xsave xsave64 xrstor xrstor64", ""},
    {"avx", 1, 0, 2, 28,
     "vaddpd vaddps vaddsd vaddss vaddsubpd vaddsubps vandnpd vandnps vandpd vandps vblendpd "
     "vblendps vblendvpd vblendvps vbroadcastf128 vbroadcastsd vbroadcastss vcmppd vcmpps vcmpsd "
     "vcmpss vcomisd vcomiss vcvtdq2pd vcvtdq2ps vcvtpd2dq vcvtpd2ps vcvtps2dq vcvtps2pd "
     "vcvtsd2si vcvtsd2ss vcvtsi2sd vcvtsi2ss vcvtss2sd vcvtss2si vcvttpd2dq vcvttps2dq "
     "vcvttsd2si vcvttss2si vdivpd vdivps vdivsd vdivss vdppd vdpps vextractf128 vextractps "
     "vhaddpd vhaddps vhsubpd vhsubps vinsertf128 vinsertps vlddqu vldmxcsr vmaskmovdqu "
     "vmaskmovpd vmaskmovps vmaxpd vmaxps vmaxsd vmaxss vminpd vminps vminsd vminss vmovapd "
     "vmovaps vmovd vmovddup vmovdqa vmovdqu vmovhlps vmovhpd vmovhps vmovlhps vmovlpd vmovlps "
     "vmovmskpd vmovmskps vmovntdq vmovntdqa vmovntpd vmovntps vmovq vmovsd vmovshdup vmovsldup "
     "vmovss vmovupd vmovups vmpsadbw vmulpd vmulps vmulsd vmulss vorpd vorps vpabsb vpabsd "
     "vpabsw vpackssdw vpacksswb vpackusdw vpackuswb vpaddb vpaddd vpaddq vpaddsb vpaddsw "
     "vpaddusb vpaddusw vpaddw vpalignr vpand vpandn vpavgb vpavgw vpblendvb vpblendw vpcmpeqb "
     "vpcmpeqd vpcmpeqq vpcmpeqw vpcmpestri vpcmpestrm vpcmpgtb vpcmpgtd vpcmpgtq vpcmpgtw "
     "vpcmpistri vpcmpistrm vperm2f128 vpermilpd vpermilps vpextrb vpextrd vpextrq vpextrw "
     "vphaddd vphaddsw vphaddw vphminposuw vphsubd vphsubsw vphsubw vpinsrb vpinsrd vpinsrq "
     "vpinsrw vpmaddubsw vpmaddwd vpmaxsb vpmaxsd vpmaxsw vpmaxub vpmaxud vpmaxuw vpminsb vpminsd "
     "vpminsw vpminub vpminud vpminuw vpmovmskb vpmovsxbd vpmovsxbq vpmovsxbw vpmovsxdq vpmovsxwd "
     "vpmovsxwq vpmovzxbd vpmovzxbq vpmovzxbw vpmovzxdq vpmovzxwd vpmovzxwq vpmuldq vpmulhrsw "
     "vpmulhuw vpmulhw vpmulld vpmullw vpmuludq vpor vpsadbw vpshufb vpshufd vpshufhw vpshuflw "
     "vpsignb vpsignd vpsignw vpslld vpslldq vpsllq vpsllw vpsrad vpsraw vpsrld vpsrldq vpsrlq "
     "vpsrlw vpsubb vpsubd vpsubq vpsubsb vpsubsw vpsubusb vpsubusw vpsubw vptest vpunpckhbw "
     "vpunpckhdq vpunpckhqdq vpunpckhwd vpunpcklbw vpunpckldq vpunpcklqdq vpunpcklwd vpxor vrcpps "
     "vrcpss vroundpd vroundps vroundsd vroundss vrsqrtps vrsqrtss vshufpd vshufps vsqrtpd "
     "vsqrtps vsqrtsd vsqrtss vstmxcsr vsubpd vsubps vsubsd vsubss vtestpd vtestps vucomisd "
     "vucomiss vunpckhpd vunpckhps vunpcklpd vunpcklps vxorpd vxorps vzeroall vzeroupper",
     ""},
    {"avx2", 7, 0, 1, 5,
     "vbroadcasti128 vbroadcastsd vbroadcastss vextracti128 vgatherdpd vgatherdps vgatherqpd "
     "vgatherqps vinserti128 vmovntdqa vmpsadbw vpabsb vpabsd vpabsw vpackssdw vpacksswb "
     "vpackusdw vpackuswb vpaddb vpaddd vpaddq vpaddsb vpaddsw vpaddusb vpaddusw vpaddw vpalignr "
     "vpand vpandn vpavgb vpavgw vpblendd vpblendvb vpblendw vpbroadcastb vpbroadcastd "
     "vpbroadcastq vpbroadcastw vpcmpeqb vpcmpeqd vpcmpeqq vpcmpeqw vpcmpgtb vpcmpgtd vpcmpgtq "
     "vpcmpgtw vperm2i128 vpermd vpermpd vpermps vpermq vpgatherdd vpgatherdq vpgatherqd "
     "vpgatherqq vphaddd vphaddsw vphaddw vphsubd vphsubsw vphsubw vpmaddubsw vpmaddwd vpmaskmovd "
     "vpmaskmovq vpmaxsb vpmaxsd vpmaxsw vpmaxub vpmaxud vpmaxuw vpminsb vpminsd vpminsw vpminub "
     "vpminud vpminuw vpmovmskb vpmovsxbd vpmovsxbq vpmovsxbw vpmovsxdq vpmovsxwd vpmovsxwq "
     "vpmovzxbd vpmovzxbq vpmovzxbw vpmovzxdq vpmovzxwd vpmovzxwq vpmuldq vpmulhrsw vpmulhuw "
     "vpmulhw vpmulld vpmullw vpmuludq vpor vpsadbw vpshufb vpshufd vpshufhw vpshuflw vpsignb "
     "vpsignd vpsignw vpslld vpslldq vpsllq vpsllvd vpsllvq vpsllw vpsrad vpsravd vpsraw vpsrld "
     "vpsrldq vpsrlq vpsrlvd vpsrlvq vpsrlw vpsubb vpsubd vpsubq vpsubsb vpsubsw vpsubusb "
     "vpsubusw vpsubw vpunpckhbw vpunpckhdq vpunpckhqdq vpunpckhwd vpunpcklbw vpunpckldq "
     "vpunpcklqdq vpunpcklwd vpxor",
     ""},
    {"fma", 1, 0, 2, 12,
     "vfmadd132pd vfmadd132ps vfmadd132sd vfmadd132ss vfmadd213pd vfmadd213ps vfmadd213sd "
     "vfmadd213ss vfmadd231pd vfmadd231ps vfmadd231sd vfmadd231ss vfmaddsub132pd vfmaddsub132ps "
     "vfmaddsub213pd vfmaddsub213ps vfmaddsub231pd vfmaddsub231ps vfmsub132pd vfmsub132ps "
     "vfmsub132sd vfmsub132ss vfmsub213pd vfmsub213ps vfmsub213sd vfmsub213ss vfmsub231pd "
     "vfmsub231ps vfmsub231sd vfmsub231ss vfmsubadd132pd vfmsubadd132ps vfmsubadd213pd "
     "vfmsubadd213ps vfmsubadd231pd vfmsubadd231ps vfnmadd132pd vfnmadd132ps vfnmadd132sd "
     "vfnmadd132ss vfnmadd213pd vfnmadd213ps vfnmadd213sd vfnmadd213ss vfnmadd231pd vfnmadd231ps "
     "vfnmadd231sd vfnmadd231ss vfnmsub132pd vfnmsub132ps vfnmsub132sd vfnmsub132ss vfnmsub213pd "
     "vfnmsub213ps vfnmsub213sd vfnmsub213ss vfnmsub231pd vfnmsub231ps vfnmsub231sd vfnmsub231ss",
     ""},
    {"f16c", 1, 0, 2, 29, "vcvtph2ps vcvtps2ph", ""},
    {"rdrand", 1, 0, 2, 30, "rdrand", ""},
    {"fsgsbase", 7, 0, 1, 0, "rdfsbase rdgsbase wrfsbase wrgsbase", ""},
    {"bmi1", 7, 0, 1, 3, "andn bextr blsi blsmsk blsr", ""},
    {"bmi2", 7, 0, 1, 8, "bzhi mulx pdep pext rorx sarx shlx shrx", ""},
    {"invpcid", 7, 0, 1, 10, "invpcid", ""},
    {"pku", 7, 0, 2, 3, "rdpkru wrpkru", ""},
    {"rdseed", 7, 0, 1, 18, "rdseed", ""},
    {"adx", 7, 0, 1, 19, "adcx adox", ""},
    {"smap", 7, 0, 1, 20, "clac stac", ""},
    {"clflushopt", 7, 0, 1, 23, "clflushopt", ""},
    {"clwb", 7, 0, 1, 24, "clwb", ""},
    {"rdpid", 7, 0, 2, 22, "rdpid", ""},
    {"movdiri", 7, 0, 2, 27, "movdiri", ""},
    {"serialize", 7, 0, 3, 14, "serialize", ""},
    {"xsaveopt", 0xd, 1, 0, 0, "xsaveopt xsaveopt64", ""},
    {"xsavec", 0xd, 1, 0, 1, "xsavec xsavec64", ""},
    {"lahf_lm", 0x80000001, 0, 2, 0, "lahf sahf", ""},
    {"lzcnt", 0x80000001, 0, 2, 5, "", ""},
    {"syscall", 0x80000001, 0, 3, 11, "syscall sysret", ""},
    {"rdtscp", 0x80000001, 0, 3, 27, "rdtscp", ""},
};

const size_t insn_bit_count = sizeof(insn_bits) / sizeof(insn_bits[0]);

const char insn_always[] =
    "aaa aad aam aas adc add and arpl bound bsf bsr bswap bt btc btr bts call cbw cdq cdqe clc cld "
    "cli clts cmc cmp cmpsb cmpsq cmpsw cmpxchg cpuid cqo cwd cwde daa das dec div enter hlt idiv "
    "imul in inc insb insd insw int int1 int3 into invd invlpg iret iretd iretq jb jbe jcxz jecxz "
    "jl jle jmp jnb jnbe jnl jnle jno jnp jns jnz jo jp jrcxz js jz lar lds lea leave les lfs lgdt "
    "lgs lidt lldt lmsw lodsb lodsd lodsq lodsw loop loope loopne lsl lss ltr mov movsb movsq "
    "movsw movsx movsxd movzx mul neg nop not or out outsb outsd outsw pause pop popa popad popf "
    "popfd popfq push pusha pushad pushf pushfd pushfq rcl rcr rdpmc ret rol ror salc sar sbb "
    "scasb scasd scasq scasw setb setbe setl setle setnb setnbe setnl setnle setno setnp setns "
    "setnz seto setp sets setz sgdt shl shld shr shrd sidt sldt smsw stc std sti stosb stosd stosq "
    "stosw str sub swapgs test verr verw vmcall vmmcall wbinvd xadd xchg xlat xor monitor mwait";

const char insn_hints[] =
    "nop prefetch prefetchw prefetchwt1 prefetchnta prefetcht0 prefetcht1 prefetcht2 cldemote "
    "endbr32 endbr64 rdsspd rdsspq bndcl bndcn bndcu bndldx bndmk bndmov bndstx lzcnt tzcnt";

const char insn_not_listed[] =
    "kmov knot kortest vaddnpd vaddnps vaddsetsps vcvtfxpntdq2ps vcvtfxpntpd2dq vcvtfxpntpd2udq "
    "vcvtfxpntps2dq vcvtfxpntps2udq vcvtfxpntudq2ps vexp223ps vfixupnanpd vfixupnanps vfmadd233ps "
    "vgatherpf0hintdpd vgatherpf0hintdps vgmaxabsps vgmaxpd vgmaxps vgminpd vgminps vloadunpackhd "
    "vloadunpackhpd vloadunpackhps vloadunpackhq vloadunpackld vloadunpacklpd vloadunpacklps "
    "vloadunpacklq vlog2ps vmovnrapd vmovnraps vmovnrngoapd vmovnrngoaps vpackstorehd "
    "vpackstorehpd vpackstorehps vpackstorehq vpackstoreld vpackstorelpd vpackstorelps "
    "vpackstorelq vpadcd vpaddsetcd vpaddsetsd vpcmpltd vpermf32x4 vpmadd231d vpmadd233d vpmulhd "
    "vpmulhud vpsbbd vpsbbrd vpsubrd vpsubrsetbd vpsubsetbd vrcp23ps vrndfxpntpd vrndfxpntps "
    "vrsqrt23ps vscaleps vscatterpf0hintdpd vscatterpf0hintdps vsubrpd vsubrps";

int insn_is_in(const char *list, const char *name)
{
	size_t size = strlen(name);

	for (const char *p = list; *p; p += *p == ' ') {
		size_t length = strcspn(p, " ");

		if (length == size && !memcmp(p, name, size))
			return 1;
		p += length;
	}
	return 0;
}
