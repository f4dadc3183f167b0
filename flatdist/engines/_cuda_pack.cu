// What a pack does besides its steps: samples measurements and labels, and finds singular values.
//
// After _cuda_common.cu, and given as macros: THREADS, BLOCKS_PER_SM.

#ifdef __CUDACC__
DEVICE float rounded_to_half(double value) {
  float result;
  asm("{ .reg .b16 h; cvt.rn.f16.f64 h, %1; cvt.f32.f16 %0, h; }" : "=f"(result) : "d"(value));
  return result;
}
DEVICE void turn(double angle, double *sine, double *cosine) { sincos(angle, sine, cosine); }
#else
DEVICE float rounded_to_half(double value) { return (float)(_Float16)value; }
DEVICE void turn(double angle, double *sine, double *cosine) { *sine = std::sin(angle); *cosine = std::cos(angle); }
#endif

// A block samples one measurement and its label <A, M*>, which is summed in an order that depends on nothing else.
// owners: whose measurement it is; steps: its number there; keys (owners, 2); truths (owners, entries) float64;
// signs: entries are +-1, otherwise normal; half: they are rounded to float16; size: bytes of an entry of ``rows``.
KERNEL sample_rows(const int *owners, const int *steps, const unsigned *keys, const double *truths, void *rows, double *labels,
                   int entries, int signs, int half, int size) {
  const int row = REPLICATE, owner = owners[row];
  const double *truth = truths + (long long)owner * entries;
  const long long start = (long long)row * entries;
  double mine = 0.0, *sums = (double *)shared;
  for (int block = THREAD; 4 * block < entries; block += THREADS) {
    unsigned words[4];
    double values[4];
    philox(block, (unsigned)steps[row], keys[2 * owner], keys[2 * owner + 1], words);
    for (int q = 0; q < 4; q++) values[q] = words[q] >> 31 ? -1.0 : 1.0;
    for (int q = 0; q < 4 && !signs; q += 2) {
      double radius = sqrt(-2.0 * log((words[q] + 0.5) * 2.3283064365386962890625e-10)), sine, cosine;
      turn(6.283185307179586476925286766559 * ((words[q + 1] + 0.5) * 2.3283064365386962890625e-10), &sine, &cosine);
      values[q] = radius * cosine;
      values[q + 1] = radius * sine;
    }
    for (int q = 0; q < 4 && 4 * block + q < entries; q++) {
      const double value = half ? rounded_to_half(values[q]) : values[q];
      const long long at = start + 4 * block + q;
      if (size == 1) ((signed char *)rows)[at] = (signed char)value;
      else if (size == 4) ((float *)rows)[at] = (float)value;
      else ((double *)rows)[at] = value;
      mine += value * truth[4 * block + q];
    }
  }
  sums[THREAD] = mine;
  wait_all();
  for (int apart = THREADS / 2; apart; apart /= 2) {
    if (THREAD < apart) sums[THREAD] += sums[THREAD + apart];
    wait_all();
  }
  if (THREAD == 0) labels[row] = sums[0];
}

// A block finds the singular values of one matrix (rows, columns), rows >= columns, unsorted, by one-sided Jacobi
// rotations (Hestenes 1958): pairs of columns are made orthogonal, all disjoint pairs of a round at once, until nothing
// turns. A pair is orthogonal if its product is below 1e-15 of the columns' norms, or 1e-30 of the matrix' norm squared.
KERNEL singular_values(const double *matrices, double *values, int rows, int columns) {
  double *a = (double *)shared, *sums = a + columns * (rows | 1);
  const int pitch = rows | 1, players = columns + columns % 2;
  const double *mine = matrices + (long long)REPLICATE * rows * columns;
  double total = 0.0;
  for (int q = THREAD; q < rows * columns; q += THREADS) {
    a[q % columns * pitch + q / columns] = mine[q];
    total += mine[q] * mine[q];
  }
  sums[THREAD] = total;
  wait_all();
  total = 0.0;
  for (int thread = 0; thread < THREADS; thread++) total += sums[thread];
  for (int sweep = 0, turned = 1; turned && sweep < 60; sweep++) {
    turned = 0;
    for (int round = 0; round < players - 1; round++) {
      for (int k = THREAD; k < players / 2; k += THREADS) {
        const int i = k ? (round + k) % (players - 1) : players - 1, j = (round - k + players - 1) % (players - 1);
        if (i >= columns || j >= columns) continue;
        double *x = a + i * pitch, *y = a + j * pitch, xx = 0.0, yy = 0.0, xy = 0.0;
        for (int p = 0; p < rows; p++) xx += x[p] * x[p], yy += y[p] * y[p], xy += x[p] * y[p];
        if (!(fabs(xy) > 1e-15 * sqrt(xx * yy) && fabs(xy) > 1e-30 * total)) continue;
        turned = 1;
        const double zeta = (yy - xx) / (2.0 * xy), root = fabs(zeta) + sqrt(1.0 + zeta * zeta);
        const double tangent = (zeta < 0.0 ? -1.0 : 1.0) / root, cosine = 1.0 / sqrt(1.0 + tangent * tangent);
        const double sine = cosine * tangent;
        for (int p = 0; p < rows; p++) {
          const double before = x[p];
          x[p] = cosine * before - sine * y[p];
          y[p] = sine * before + cosine * y[p];
        }
      }
      wait_all();
    }
    wait_all();
    sums[THREAD] = turned;
    wait_all();
    for (int thread = 0; thread < THREADS; thread++) turned |= sums[thread] != 0.0;
    wait_all();
  }
  for (int k = THREAD; k < columns; k += THREADS) {
    double squares = 0.0;
    for (int p = 0; p < rows; p++) squares += a[k * pitch + p] * a[k * pitch + p];
    values[(long long)REPLICATE * columns + k] = sqrt(squares);
  }
}

#ifndef __CUDACC__
extern "C" void sample_all(int blocks, const int *owners, const int *steps, const unsigned *keys, const double *truths, void *rows,
                           double *labels, int entries, int signs, int half, int size) {
  run_blocks(blocks, 2 * THREADS, [=] { sample_rows(owners, steps, keys, truths, rows, labels, entries, signs, half, size); });
}
extern "C" void singular_all(int blocks, const double *matrices, double *values, int rows, int columns) {
  run_blocks(blocks, 2 * (columns * (rows | 1) + THREADS), [=] { singular_values(matrices, values, rows, columns); });
}
#endif
