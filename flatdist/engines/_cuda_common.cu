// What the kernels share: the words of CUDA, or of a C++ compiler that runs a block as THREADS ordinary threads, which
// checks a kernel without a card; and the counter-based generator.
#ifdef __CUDACC__
#define DEVICE __device__ __forceinline__
#define KERNEL extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS_PER_SM)
#define THREAD (int)threadIdx.x
#define REPLICATE (int)blockIdx.x
extern __shared__ __align__(16) float shared[];
DEVICE void wait_all() { if (THREADS <= 32) __syncwarp(); else __syncthreads(); }
DEVICE float exchange(float value, int distance) { return __shfl_xor_sync(0xffffffffu, value, distance); }
DEVICE unsigned high(unsigned a, unsigned b) { return __umulhi(a, b); }
DEVICE float bits_float(int bits) { return __int_as_float(bits); }
DEVICE int float_bits(float value) { return __float_as_int(value); }
DEVICE float fused(float a, float b, float c) { return fmaf(a, b, c); }
DEVICE float root(float a) { return __fsqrt_rn(a); }
#else
#include <cmath>
#include <cstring>
#include <vector>
#if THREADS > 1
#include <barrier>
#include <thread>
#endif
#define DEVICE static inline
#define KERNEL static void
#define __restrict__
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(4) char4 { signed char x, y, z, w; };
static float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
static thread_local int THREAD;
static int REPLICATE;
static float *shared;
static float mailbox[THREADS];
#if THREADS > 1
static std::barrier<> meeting(THREADS);
DEVICE void wait_all() { meeting.arrive_and_wait(); }
#else
DEVICE void wait_all() {}
#endif
DEVICE float exchange(float value, int distance) {
  mailbox[THREAD] = value;
  wait_all();
  float other = mailbox[THREAD ^ distance];
  wait_all();
  return other;
}
DEVICE unsigned high(unsigned a, unsigned b) { return (unsigned)(((unsigned long long)a * b) >> 32); }
DEVICE float bits_float(int bits) { float value; std::memcpy(&value, &bits, 4); return value; }
DEVICE int float_bits(float value) { int bits; std::memcpy(&bits, &value, 4); return bits; }
DEVICE float fused(float a, float b, float c) { return std::fma(a, b, c); }
DEVICE float root(float a) { return std::sqrt(a); }

// Every block of a launch in turn, by as many threads as it has.
template <class Work> static void run_blocks(int blocks, int shared_floats, Work work) {
  std::vector<float4> scratch((shared_floats + 3) / 4);
  shared = (float *)scratch.data();
  for (REPLICATE = 0; REPLICATE < blocks; REPLICATE++) {
#if THREADS == 1
    work();
#else
    std::vector<std::thread> block;
    for (int thread = 0; thread < THREADS; thread++)
      block.emplace_back([&work, thread] {
        THREAD = thread;
        work();
      });
    for (std::thread &thread : block) thread.join();
#endif
  }
}
#endif

constexpr unsigned KEY_STEP0 = 0x9E3779B9u, KEY_STEP1 = 0xBB67AE85u;

DEVICE void philox(unsigned block, unsigned step, unsigned k0, unsigned k1, unsigned *out) {
  unsigned c0 = block, c1 = 0, c2 = step, c3 = 0;
#pragma unroll
  for (int round = 0; round < 10; round++) {
    unsigned h0 = high(c0, 0xD2511F53u), l0 = c0 * 0xD2511F53u, h1 = high(c2, 0xCD9E8D57u), l1 = c2 * 0xCD9E8D57u;
    c0 = h1 ^ c1 ^ k0; c2 = h0 ^ c3 ^ k1; c1 = l1; c3 = l0;
    k0 += KEY_STEP0; k1 += KEY_STEP1;
  }
  out[0] = c0; out[1] = c1; out[2] = c2; out[3] = c3;
}
