// Label-noise SGD of one replicate a block: layers and products in shared memory, drawn rows read once a step.
//
// Compiled by NVRTC for one shape, or by a C++ compiler for a block of ordinary threads, which checks it without a card.
// After _cuda_common.cu, and given as macros: DEPTH, WIDTHS (d_0 ... d_L rounded up to multiples of 4), BATCH (0: every row once), NOISE, SAM,
// STORAGE (0 float rows, 1 int8 rows, 2 factors, 3 entries), THREADS, LANES (threads that share a row), ROWS (rows a
// thread holds at a time), TALL x WIDE (a thread's tile of a product), AHEAD (steps drawn at a time), BLOCKS_PER_SM.
DEVICE constexpr int width(int j) { constexpr int widths[] = WIDTHS; return widths[j]; }
// An odd number of 16-byte units: threads that read successive rows then meet different banks.
DEVICE constexpr int pitch_of(int columns) { return (columns / 4 | 1) * 4; }
DEVICE constexpr int widest() { int most = 0; for (int j = 0; j <= DEPTH; j++) most = width(j) > most ? width(j) : most; return most; }
constexpr int OUT = width(DEPTH), IN = width(0), PITCH = pitch_of(IN);
constexpr int UNITS = OUT * IN / 4, SLOTS = (UNITS + LANES - 1) / LANES, TEAMS = THREADS / LANES;
constexpr int WARPS = (THREADS + 31) / 32, SHARERS = LANES < 32 ? WARPS : TEAMS;
constexpr int MATRIX = widest() * PITCH;
DEVICE constexpr int layer_at(int j) { int at = 0; for (int i = 1; i < j; i++) at += width(i) * pitch_of(width(i - 1)); return at; }
constexpr int LAYERS = layer_at(DEPTH + 1);
constexpr int RIGHT = LAYERS * (SAM ? 2 : 1);                      // W_j ... W_1 for j = 2 ... L - 1
constexpr int ROTATING = RIGHT + (DEPTH - 2) * MATRIX;             // M, G and one more, in turn
constexpr int PARTIAL = ROTATING + 3 * MATRIX;
constexpr int CHUNK = 32;                                          // factors taken together
constexpr int PARTIAL_SIZE = STORAGE == 2 ? CHUNK * (pitch_of(OUT) + 2 * PITCH) : STORAGE == 3 ? 0 : SHARERS > 1 ? SHARERS * UNITS * 4 : 0;
constexpr int SUMS = PARTIAL + PARTIAL_SIZE;                       // 2 x ROWS x warps, and a sum of squares a thread's team
constexpr int SUMS_SIZE = 2 * ROWS * WARPS + THREADS + 4;
constexpr int DRAWS = (SUMS + SUMS_SIZE + 3) / 4 * 4;
// Box and Muller's two normals of a pair of words, by the polynomials of flatdist's compiled draws.
DEVICE void pair(unsigned u, unsigned v, float scale, float *out) {
  int bits = float_bits((float)u + 0.5f), exponent = (bits - 0x3F3504F3) >> 23;
  float above = bits_float(bits - (exponent << 23)) - 1.0f;
  if (exponent == 32) above = ((float)~u + 0.5f) * -2.3283064365386963e-10f;
  float s = above / (above + 2.0f), z = s * s;
  float series = 1.0f + z * (0.3333333432674408f + z * (0.2f + z * (0.1428571492433548f + z * 0.1111111119389534f)));
  float logarithm = (float)(exponent - 32) * 0.6931471824645996f + 2.0f * s * series;
  float radius = scale * root(fmaxf(-2.0f * logarithm, 0.0f));
  unsigned quadrant = (v + 0x20000000u) >> 30;
  float angle = ((float)(int)(v - (quadrant << 30)) + 0.5f) * 1.4629180792671596e-09f, x = angle * angle;
  float sine = angle * (1.0f + x * (-0.1666666716337204f + x * (0.008333333767950535f + x * (-0.0001984127011382952f + x * 2.755731884462875e-06f))));
  float cosine = 1.0f + x * (-0.5f + x * (0.0416666679084301f + x * (-0.0013888889225199819f + x * (2.4801587642286904e-05f - x * 2.755731998149713e-07f))));
  float first = quadrant & 1 ? sine : cosine, second = quadrant & 1 ? cosine : sine;
  out[0] = radius * ((quadrant + 1) & 2 ? -first : first);
  out[1] = radius * (quadrant & 2 ? -second : second);
}

DEVICE float4 read4(const float *at) { return *(const float4 *)at; }
DEVICE void split(float4 v, float *out) { out[0] = v.x; out[1] = v.y; out[2] = v.z; out[3] = v.w; }

template <int COUNT> DEVICE void read_run(const float *at, float *out) {
  if (COUNT == 4) split(read4(at), out);
  else if (COUNT == 2) { struct alignas(8) two { float x, y; }; two v = *(const two *)at; out[0] = v.x; out[1] = v.y; }
  else {
#pragma unroll
    for (int q = 0; q < COUNT; q++) out[q] = at[q];
  }
}

// C = op(A) op(B) by tiles of TALL x WIDE; store(i, j, tile row) takes one row of a tile at a time.
template <int M, int N, int K, bool A_TURNED, bool B_TURNED, class Store>
DEVICE void product(const float *a, int a_pitch, const float *b, int b_pitch, Store store) {
  constexpr int tall = M % TALL ? 4 : TALL, wide = N % WIDE ? 4 : WIDE;
  constexpr int across = N / wide, tiles = M / tall * across;
  for (int tile = THREAD; tile < tiles; tile += THREADS) {
    int i = tile / across * tall, j = tile % across * wide;
    float c[tall][wide];
#pragma unroll
    for (int p = 0; p < tall; p++)
#pragma unroll
      for (int q = 0; q < wide; q++) c[p][q] = 0.0f;
#pragma unroll 4
    for (int k = 0; k < K; k += 4) {
      float left[tall][4], right[4][wide];
      if (A_TURNED) {
#pragma unroll
        for (int s = 0; s < 4; s++) {
          float run[tall];
          read_run<tall>(a + (k + s) * a_pitch + i, run);
#pragma unroll
          for (int p = 0; p < tall; p++) left[p][s] = run[p];
        }
      } else {
#pragma unroll
        for (int p = 0; p < tall; p++) split(read4(a + (i + p) * a_pitch + k), left[p]);
      }
      if (B_TURNED) {
#pragma unroll
        for (int q = 0; q < wide; q++) {
          float run[4];
          split(read4(b + (j + q) * b_pitch + k), run);
#pragma unroll
          for (int s = 0; s < 4; s++) right[s][q] = run[s];
        }
      } else {
#pragma unroll
        for (int s = 0; s < 4; s++) read_run<wide>(b + (k + s) * b_pitch + j, right[s]);
      }
#pragma unroll
      for (int s = 0; s < 4; s++)
#pragma unroll
        for (int p = 0; p < tall; p++)
#pragma unroll
          for (int q = 0; q < wide; q++) c[p][q] = fused(left[p][s], right[s][q], c[p][q]);
    }
#pragma unroll
    for (int p = 0; p < tall; p++)
#pragma unroll
      for (int q = 0; q < wide; q++) store(i + p, j + q, c[p][q]);
  }
}

DEVICE float *right_of(float *layers, int j) { return j == 1 ? layers : j < DEPTH ? shared + RIGHT + (j - 2) * MATRIX : shared + ROTATING; }
DEVICE int right_pitch(int j) { return PITCH; }

// W_j ... W_1 for every j; the last, M, into the first rotating matrix.
template <int J> DEVICE void forward(float *layers) {
  if constexpr (J <= DEPTH) {
    float *out = right_of(layers, J);
    product<width(J), IN, width(J - 1), false, false>(layers + layer_at(J), pitch_of(width(J - 1)), right_of(layers, J - 1), PITCH,
      [&](int i, int j, float c) { out[i * PITCH + j] = c; });
    wait_all();
    forward<J + 1>(layers);
  }
}

DEVICE float *rotating(int turn) { return shared + ROTATING + turn % 3 * MATRIX; }

// target_j (+)= factor * (gradient in W_j) from G, the second rotating matrix; target may be the layers themselves.
template <int J> DEVICE void backward(float *layers, float *target, float factor, bool replace) {
  constexpr int turn = 1 + DEPTH - J;  // where (W_L ... W_{j+1})^T G stands
  if constexpr (J == DEPTH) {
    product<width(J - 1), IN, width(J), true, false>(layers + layer_at(J), pitch_of(width(J - 1)), rotating(turn), PITCH,
      [&](int i, int j, float c) { rotating(turn + 1)[i * PITCH + j] = c; });
    wait_all();
  }
  if constexpr (J > 1) {
    if constexpr (J > 2)
      product<width(J - 2), IN, width(J - 1), true, false>(layers + layer_at(J - 1), pitch_of(width(J - 2)), rotating(turn + 1), PITCH,
        [&](int i, int j, float c) { rotating(turn + 2)[i * PITCH + j] = c; });
    float *out = target + layer_at(J);
    product<width(J), width(J - 1), IN, false, true>(rotating(turn), PITCH, right_of(layers, J - 1), PITCH,
      [&](int i, int j, float c) { float *at = out + i * pitch_of(width(J - 1)) + j; *at = fused(factor, c, replace ? 0.0f : *at); });
    wait_all();
    backward<J - 1>(layers, target, factor, replace);
  } else {
    const float *x = rotating(turn);
    for (int q = THREAD; q < width(1) * PITCH; q += THREADS) target[q] = fused(factor, x[q], replace ? 0.0f : target[q]);
    wait_all();
  }
}

#if STORAGE == 1
typedef char4 Entry;
DEVICE float4 widen(char4 v) { return make_float4(v.x, v.y, v.z, v.w); }
#else
typedef float4 Entry;
DEVICE float4 widen(float4 v) { return v; }
#endif

DEVICE float squares_of_all(float mine) {  // the same sum in every thread
  float *sums = shared + SUMS + 2 * ROWS * WARPS;
  for (int distance = 1; distance < 32 && distance < THREADS; distance *= 2) mine += exchange(mine, distance);
  if (THREADS <= 32) return mine;
  if (THREAD % 32 == 0) sums[THREAD / 32] = mine;
  wait_all();
  float total = 0.0f;
  for (int q = 0; q < WARPS; q++) total += sums[q];
  return total;
}

// G = share * sum_k (e_k + noise_k) A_k at the M that stands ready; returns this thread's part of sum_k e_k^2.
#if STORAGE <= 1
DEVICE float gather(const void *first, const void *, const float *labels, long long base, int count, const int *index, const float *noise, float share, float) {
  const Entry *rows = (const Entry *)first;
  const float *m_at = rotating(0);
  const int lane = THREAD % LANES, team = THREAD / LANES;
  float4 m[SLOTS], total[SLOTS];
#pragma unroll
  for (int it = 0; it < SLOTS; it++) {
    int unit = it * LANES + lane;
    m[it] = unit < UNITS ? read4(m_at + unit / (IN / 4) * PITCH + unit % (IN / 4) * 4) : make_float4(0, 0, 0, 0);
    total[it] = make_float4(0, 0, 0, 0);
  }
  float squares = 0.0f;
  int turn = 0;
  for (int k0 = 0; k0 < count; k0 += TEAMS * ROWS) {
    float4 a[ROWS][SLOTS];
    float e[ROWS], b[ROWS];
#pragma unroll
    for (int q = 0; q < ROWS; q++) {
      int k = k0 + q * TEAMS + team;
      bool live = k < count;
      long long row = base + (live ? (BATCH ? index[k] : k) : 0);
      b[q] = live ? labels[row] : 0.0f;
#pragma unroll
      for (int it = 0; it < SLOTS; it++) {
        int unit = it * LANES + lane;
        a[q][it] = live && (SLOTS * LANES == UNITS || unit < UNITS) ? widen(rows[row * UNITS + unit]) : make_float4(0, 0, 0, 0);
      }
    }
#pragma unroll
    for (int q = 0; q < ROWS; q++) {
      float4 s = make_float4(0, 0, 0, 0);
#pragma unroll
      for (int it = 0; it < SLOTS; it++) {
        s.x = fused(a[q][it].x, m[it].x, s.x); s.y = fused(a[q][it].y, m[it].y, s.y);
        s.z = fused(a[q][it].z, m[it].z, s.z); s.w = fused(a[q][it].w, m[it].w, s.w);
      }
      e[q] = (s.x + s.y) + (s.z + s.w);
    }
#pragma unroll
    for (int distance = 1; distance < (LANES < 32 ? LANES : 32); distance *= 2)
#pragma unroll
      for (int q = 0; q < ROWS; q++) e[q] += exchange(e[q], distance);
    if (LANES > 32) {
      float *sums = shared + SUMS + (turn & 1) * ROWS * WARPS;
      turn++;
      if (THREAD % 32 == 0)
#pragma unroll
        for (int q = 0; q < ROWS; q++) sums[q * WARPS + THREAD / 32] = e[q];
      wait_all();
#pragma unroll
      for (int q = 0; q < ROWS; q++) {
        float sum = 0.0f;
#pragma unroll
        for (int w = 0; w < LANES / 32; w++) sum += sums[q * WARPS + team * (LANES / 32) + w];
        e[q] = sum;
      }
    }
#pragma unroll
    for (int q = 0; q < ROWS; q++) {
      int k = k0 + q * TEAMS + team;
      e[q] -= b[q];
      if (k < count) { if (lane == 0) squares = fused(e[q], e[q], squares); }
      if (NOISE) e[q] += k < count ? noise[k] : 0.0f;
      if (k >= count) e[q] = 0.0f;
#pragma unroll
      for (int it = 0; it < SLOTS; it++) {
        total[it].x = fused(a[q][it].x, e[q], total[it].x); total[it].y = fused(a[q][it].y, e[q], total[it].y);
        total[it].z = fused(a[q][it].z, e[q], total[it].z); total[it].w = fused(a[q][it].w, e[q], total[it].w);
      }
    }
  }
#pragma unroll
  for (int distance = LANES; distance < 32 && distance < THREADS; distance *= 2)
#pragma unroll
    for (int it = 0; it < SLOTS; it++) {
      total[it].x += exchange(total[it].x, distance); total[it].y += exchange(total[it].y, distance);
      total[it].z += exchange(total[it].z, distance); total[it].w += exchange(total[it].w, distance);
    }
  float *g_at = rotating(1), *partial = shared + PARTIAL;
  const int sharer = LANES < 32 ? THREAD / 32 : team;
  const bool first_group = LANES >= 32 || THREAD % 32 < LANES;
#pragma unroll
  for (int it = 0; it < SLOTS; it++) {
    int unit = it * LANES + lane;
    if (unit < UNITS && first_group) {
      if (SHARERS > 1) *(float4 *)(partial + (sharer * UNITS + unit) * 4) = total[it];
      else *(float4 *)(g_at + unit / (IN / 4) * PITCH + unit % (IN / 4) * 4) =
        make_float4(share * total[it].x, share * total[it].y, share * total[it].z, share * total[it].w);
    }
  }
  wait_all();
  if (SHARERS > 1) {
    for (int unit = THREAD; unit < UNITS; unit += THREADS) {
      float4 sum = read4(partial + unit * 4);
#pragma unroll
      for (int s = 1; s < SHARERS; s++) {
        float4 more = read4(partial + (s * UNITS + unit) * 4);
        sum.x += more.x; sum.y += more.y; sum.z += more.z; sum.w += more.w;
      }
      *(float4 *)(g_at + unit / (IN / 4) * PITCH + unit % (IN / 4) * 4) = make_float4(share * sum.x, share * sum.y, share * sum.z, share * sum.w);
    }
    wait_all();
  }
  return squares;
}
#elif STORAGE == 2
DEVICE float gather(const void *first, const void *second, const float *labels, long long base, int count, const int *index, const float *noise, float share, float) {
  float *u = shared + PARTIAL, *v = u + CHUNK * pitch_of(OUT), *image = v + CHUNK * PITCH, *g = rotating(1), *m = rotating(0);
  float squares = 0.0f;
  for (int q = THREAD; q < OUT * PITCH; q += THREADS) g[q] = 0.0f;
  for (int k0 = 0; k0 < count; k0 += CHUNK) {
    for (int q = THREAD; q < CHUNK * OUT; q += THREADS) {
      int k = k0 + q / OUT;
      u[q / OUT * pitch_of(OUT) + q % OUT] = k < count ? ((const float *)first)[(base + (BATCH ? index[k] : k)) * OUT + q % OUT] : 0.0f;
    }
    for (int q = THREAD; q < CHUNK * IN; q += THREADS) {
      int k = k0 + q / IN;
      v[q / IN * PITCH + q % IN] = k < count ? ((const float *)second)[(base + (BATCH ? index[k] : k)) * IN + q % IN] : 0.0f;
    }
    wait_all();
    product<CHUNK, IN, OUT, false, false>(u, pitch_of(OUT), m, PITCH, [&](int i, int j, float c) { image[i * PITCH + j] = c; });
    wait_all();
    for (int q = THREAD; q < CHUNK; q += THREADS) {
      int k = k0 + q;
      float e = 0.0f;
      for (int j = 0; j < IN; j++) e = fused(image[q * PITCH + j], v[q * PITCH + j], e);
      if (k < count) {
        e -= labels[base + (BATCH ? index[k] : k)];
        squares = fused(e, e, squares);
        if (NOISE) e += noise[k];
      }
      for (int j = 0; j < IN; j++) image[q * PITCH + j] = share * e * v[q * PITCH + j];
    }
    wait_all();
    product<OUT, IN, CHUNK, true, false>(u, pitch_of(OUT), image, PITCH, [&](int i, int j, float c) { g[i * PITCH + j] += c; });
    wait_all();
  }
  return squares;
}
#else
DEVICE float gather(const void *first, const void *second, const float *labels, long long base, int count, const int *index, const float *noise, float share, float scale) {
  float *g = rotating(1), *weights = rotating(2);  // the third matrix is free until G has gone through a layer
  int *places = (int *)(weights + (BATCH + 3) / 4 * 4);
  const float *m = rotating(0);
  float squares = 0.0f;
  for (int q = THREAD; q < OUT * PITCH; q += THREADS) g[q] = 0.0f;
  wait_all();
  for (int k = THREAD; k < count; k += THREADS) {
    long long row = base + (BATCH ? index[k] : k);
    int place = ((const int *)first)[row] * PITCH + ((const int *)second)[row];
    float e = fused(scale, m[place], -labels[row]);
    squares = fused(e, e, squares);
    if (NOISE) e += noise[k];
    e *= share * scale;
    if (BATCH) { weights[k] = e; places[k] = place; } else g[place] = e;  // a problem has no entry twice
  }
  wait_all();
  if (BATCH) {
    for (int q = THREAD; q < OUT * PITCH; q += THREADS) {
      float sum = 0.0f;
      for (int k = 0; k < count; k++) sum += places[k] == q ? weights[k] : 0.0f;
      g[q] = sum;
    }
    wait_all();
  }
  return squares;
}
#endif

KERNEL run_steps(float *weights, const void *first, const void *second, const float *labels, const long long *bases, const int *counts,
                 const unsigned *keys, const float *rates, const float *levels, const int *starts, const int *steps, float *largest,
                 const float *constants, int stride, int room) {
  const int r = REPLICATE, n = counts[r], count = BATCH ? BATCH : n, blocks = (count + 3) / 4;
  const unsigned *key = keys + 4 * r;
  const float rate = rates[r], radius = constants[0], scale = constants[1], share = 2.0f / count;
  const long long base = bases[r];
  float *layers = shared, *ahead = shared + LAYERS, *noise = shared + DRAWS;
  int *index = (int *)(noise + (NOISE ? AHEAD * room : 0));
  float worst = largest[r];
  for (int q = THREAD; q < DRAWS; q += THREADS) shared[q] = 0.0f;
  wait_all();
  float *mine = weights;
  {
    long long size = 0;
    for (int j = 1; j <= DEPTH; j++) size += width(j) * width(j - 1);
    mine += r * size;
  }
  float *at = mine;
  for (int j = 1; j <= DEPTH; at += width(j) * width(j - 1), j++)
    for (int q = THREAD; q < width(j) * width(j - 1); q += THREADS)
      layers[layer_at(j) + q / width(j - 1) * pitch_of(width(j - 1)) + q % width(j - 1)] = at[q];
  wait_all();
  const int total = steps[r];
  for (int t = 0; t < total; t++) {
    const int turn = t % AHEAD;
    if (turn == 0 && (NOISE || BATCH)) {
      for (int q = THREAD; q < AHEAD * blocks; q += THREADS) {
        int ahead_by = q / blocks, block = q % blocks;
        unsigned words[4];
        if (BATCH) {
          philox(block, (unsigned)(starts[r] + t + ahead_by), key[0], key[1], words);
          for (int w = 0; w < 4; w++) index[ahead_by * room + 4 * block + w] = (int)high(words[w], (unsigned)n);
        }
        if (NOISE) {
          float level = t + ahead_by < total ? levels[(long long)r * stride + t + ahead_by] : 0.0f;
          philox(block, (unsigned)(starts[r] + t + ahead_by), key[2], key[3], words);
          pair(words[0], words[1], level, noise + ahead_by * room + 4 * block);
          pair(words[2], words[3], level, noise + ahead_by * room + 4 * block + 2);
        }
      }
      wait_all();
    }
    const int *drawn = index + turn * room;
    const float *added = noise + turn * room;
    forward<2>(layers);
    float squares = squares_of_all(gather(first, second, labels, base, count, drawn, added, share, scale));
    float loss = squares / count;
    if (loss > worst || loss != loss) worst = loss;
#if SAM
    backward<DEPTH>(layers, ahead, 1.0f, true);
    float norm = 0.0f;
    for (int q = THREAD; q < LAYERS; q += THREADS) norm = fused(ahead[q], ahead[q], norm);
    norm = squares_of_all(norm);
    const float reach = radius / (root(norm) + 1e-12f);
    for (int q = THREAD; q < LAYERS; q += THREADS) ahead[q] = fused(reach, ahead[q], layers[q]);
    wait_all();
    forward<2>(ahead);
    gather(first, second, labels, base, count, drawn, added, share, scale);
    backward<DEPTH>(ahead, layers, -rate, false);
#else
    backward<DEPTH>(layers, layers, -rate, false);
#endif
  }
  at = mine;
  for (int j = 1; j <= DEPTH; at += width(j) * width(j - 1), j++)
    for (int q = THREAD; q < width(j) * width(j - 1); q += THREADS)
      at[q] = layers[layer_at(j) + q / width(j - 1) * pitch_of(width(j - 1)) + q % width(j - 1)];
  if (THREAD == 0) largest[r] = worst;
  (void)radius; (void)scale; (void)ahead;
}

#ifndef __CUDACC__
extern "C" void run_all(int replicates, int shared_floats, float *weights, const void *first, const void *second, const float *labels,
                        const long long *bases, const int *counts, const unsigned *keys, const float *rates, const float *levels,
                        const int *starts, const int *steps, float *largest, const float *constants, int stride, int room) {
  run_blocks(replicates, shared_floats, [=] {
    run_steps(weights, first, second, labels, bases, counts, keys, rates, levels, starts, steps, largest, constants, stride, room);
  });
}
#endif
