// On x86 the smallest integer divided by -1 traps (Intel SDM, IDIV), and so
// ONNX Runtime's integer Div and Mod would end the process; so does a division
// by zero, which some of its kernels (TopK, DFT, STFT, QuantizeLinear) make of
// an empty input. The handler gives such divisions the results that other
// processors give (Arm ARM, SDIV and UDIV): the dividend itself with remainder
// 0, and 0 with the dividend as remainder. It is set before Go's runtime
// starts, which then forwards to it the traps of C code only.
#if defined(__linux__) && defined(__x86_64__)
#define _GNU_SOURCE
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <ucontext.h>

// divisor decodes IDIV or DIV at p: its length, operand width, whether it is IDIV, and value; 0 if it is another
// instruction.
static int divisor(const uint8_t *p, const greg_t *g, int *width, int *is_signed, int64_t *value) {
  static const int regs[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                               REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};
  const uint8_t *start = p;
  uint8_t rex = 0;
  if ((*p & 0xf0) == 0x40) rex = *p++;
  if (*p++ != 0xf7) return 0;
  uint8_t modrm = *p++;
  int mod = modrm >> 6, rm = modrm & 7;
  if (((modrm >> 3) & 7) < 6) return 0; // DIV is 6, IDIV 7
  *is_signed = modrm >> 3 & 1;
  *width = rex & 8 ? 8 : 4;
  if (mod == 3) {
    int64_t v = g[regs[rm | (rex & 1) << 3]];
    *value = *width == 8 ? v : (int32_t)v;
    return p - start;
  }
  int64_t at = 0;
  int32_t disp = 0;
  int base = rm | (rex & 1) << 3, has_base = 1;
  if (rm == 4) {
    uint8_t sib = *p++;
    int index = ((sib >> 3) & 7) | (rex & 2) << 2;
    base = (sib & 7) | (rex & 1) << 3;
    if (index != 4) at += g[regs[index]] << (sib >> 6);
    if ((sib & 7) == 5 && mod == 0) has_base = 0;
  } else if (rm == 5 && mod == 0) {
    return 0; // relative to RIP: no operand of a loop
  }
  if (has_base) at += g[regs[base]];
  if (mod == 1) disp = (int8_t)*p++;
  if (mod == 2 || !has_base) memcpy(&disp, p, 4), p += 4;
  at += disp;
  if (*width == 8) memcpy(value, (void *)at, 8);
  else { int32_t v; memcpy(&v, (void *)at, 4); *value = v; }
  return p - start;
}

static void on_fpe(int sig, siginfo_t *info, void *context) {
  greg_t *g = ((ucontext_t *)context)->uc_mcontext.gregs;
  int width, is_signed;
  int64_t value;
  int length = info->si_code == FPE_INTDIV ? divisor((const uint8_t *)g[REG_RIP], g, &width, &is_signed, &value) : 0;
  if (length && (value == 0 || (is_signed && value == -1))) {
    uint64_t dividend = width == 4 ? (uint32_t)g[REG_RAX] : (uint64_t)g[REG_RAX];
    g[REG_RAX] = value ? dividend : 0;
    g[REG_RDX] = value ? 0 : dividend;
    g[REG_RIP] += length;
    return;
  }
  signal(sig, SIG_DFL); // anything else is as deadly as ever
}

__attribute__((constructor)) static void catch_fpe(void) {
  struct sigaction a;
  memset(&a, 0, sizeof a);
  a.sa_sigaction = on_fpe;
  a.sa_flags = SA_SIGINFO | SA_ONSTACK;
  sigaction(SIGFPE, &a, NULL);
}
#endif
