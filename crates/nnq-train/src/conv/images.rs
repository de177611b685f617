//! Images between layouts: channels first, as burn has them, and channels last, as the kernels want them.

/// Sides of the blocks that are turned at once: their rows stay in the first-level cache.
const BLOCK: usize = 16;

/// Turns a matrix of `rows` by `columns`.
pub fn turn(from: &[f32], rows: usize, columns: usize, to: &mut [f32]) {
    for r0 in (0..rows).step_by(BLOCK) {
        let r1 = (r0 + BLOCK).min(rows);
        for c0 in (0..columns).step_by(BLOCK) {
            let c1 = (c0 + BLOCK).min(columns);
            if (r1 - r0, c1 - c0) == (BLOCK, BLOCK) {
                let mut block = [[0.0f32; BLOCK]; BLOCK];
                for (r, row) in block.iter_mut().enumerate() {
                    row.copy_from_slice(&from[(r0 + r) * columns + c0..][..BLOCK]);
                }
                for c in 0..BLOCK {
                    let line = &mut to[(c0 + c) * rows + r0..][..BLOCK];
                    for (x, row) in line.iter_mut().zip(&block) {
                        *x = row[c];
                    }
                }
            } else {
                for c in c0..c1 {
                    for r in r0..r1 {
                        to[c * rows + r] = from[r * columns + c];
                    }
                }
            }
        }
    }
}

/// Puts every pixel of channels-last `from`, `[height, width, channels]`, `step` pixels apart into rows of `wide` pixels; what lies between is left alone.
pub fn stuff(
    from: &[f32],
    [height, width]: [usize; 2],
    channels: usize,
    step: [usize; 2],
    wide: usize,
    to: &mut [f32],
) {
    for y in 0..height {
        let row = &from[y * width * channels..][..width * channels];
        let line = &mut to[y * step[0] * wide * channels..];
        if step[1] == 1 {
            line[..row.len()].copy_from_slice(row);
        } else {
            for (x, pixel) in row.chunks_exact(channels).enumerate() {
                line[x * step[1] * channels..][..channels].copy_from_slice(pixel);
            }
        }
    }
}

/// Puts planes `[channels, height, width]` into planes of `[tall, wide]` at `begin`; negative begins crop. What lies around is left alone.
pub fn pad(from: &[f32], [height, width]: [usize; 2], begin: [usize; 2], [tall, wide]: [usize; 2], to: &mut [f32]) {
    let rows = height.min(tall.saturating_sub(begin[0]));
    let columns = width.min(wide.saturating_sub(begin[1]));
    for (plane, out) in from.chunks_exact(height * width).zip(to.chunks_exact_mut(tall * wide)) {
        for y in 0..rows {
            let line = &mut out[(y + begin[0]) * wide + begin[1]..][..columns];
            line.copy_from_slice(&plane[y * width..][..columns]);
        }
    }
}
