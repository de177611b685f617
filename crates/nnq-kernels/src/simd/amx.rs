//! AMX: products of tiles of 16 rows of 64 bytes. Beside it the vectors of AVX-512 with VNNI.
//!
//! The compiler has no stable intrinsics for tiles; the instructions are written out. Registers 0 to 3
//! accumulate, 4 and 5 hold activations, 6 and 7 weights; nothing else uses tile registers.
use super::avx512::Avx512Vnni;
use std::{arch::asm, marker::PhantomData, sync::OnceLock};

/// Rows of a tile of activations: output pixels.
pub(crate) const TILE_ROWS: usize = 16;
/// Bytes of a tile's row.
pub(crate) const TILE_BYTES: usize = 64;

/// Proof of AVX-512 with VNNI, of AMX's tiles of bytes, and of the system's permission to use them.
#[derive(Clone, Copy)]
pub(crate) struct Amx(Avx512Vnni);

impl Amx {
    pub(crate) fn new() -> Option<Amx> {
        static USABLE: OnceLock<bool> = OnceLock::new();
        let vectors = Avx512Vnni::new()?;
        USABLE.get_or_init(|| processor_has_it() && system_permits_it()).then_some(Amx(vectors))
    }

    pub(crate) fn vectors(self) -> Avx512Vnni {
        self.0
    }

    /// Configures this thread's tiles: all of them 16 rows of 64 bytes.
    pub(crate) fn configure(self) -> Tiles {
        #[repr(C, align(64))]
        struct Config {
            palette: u8,
            start_row: u8,
            reserved: [u8; 14],
            row_bytes: [u16; 16],
            rows: [u8; 16],
        }
        static ALL: Config = {
            let mut config = Config { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
            let mut i = 0;
            while i < 8 {
                config.row_bytes[i] = TILE_BYTES as u16;
                config.rows[i] = TILE_ROWS as u8;
                i += 1;
            }
            config
        };
        // SAFETY: `self` proves that the instruction exists and that the system permits tiles.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const ALL, options(nostack, readonly, preserves_flags)) };
        Tiles(PhantomData)
    }
}

/// `CPUID.(7,0).EDX`: bit 24 are tiles, bit 25 their products of bytes.
fn processor_has_it() -> bool {
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    const NEED: u32 = 1 << 24 | 1 << 25;
    __cpuid(0).eax >= 7 && __cpuid_count(7, 0).edx & NEED == NEED
}

/// Linux hands the large register state out on request, to the whole process.
#[cfg(target_os = "linux")]
fn system_permits_it() -> bool {
    const SYS_ARCH_PRCTL: i64 = 158;
    const ARCH_REQ_XCOMP_PERM: u64 = 0x1023;
    const XFEATURE_XTILEDATA: u64 = 18;
    let mut answer = SYS_ARCH_PRCTL;
    // SAFETY: a system call that reads and writes no memory of this process.
    unsafe {
        asm!("syscall", inout("rax") answer, in("rdi") ARCH_REQ_XCOMP_PERM, in("rsi") XFEATURE_XTILEDATA,
            out("rcx") _, out("r11") _, options(nostack));
    }
    answer == 0
}

#[cfg(not(target_os = "linux"))]
fn system_permits_it() -> bool {
    false
}

/// This thread's tiles, configured; released when dropped.
pub(crate) struct Tiles(PhantomData<*const ()>);

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: whoever holds a `Tiles` has configured tiles.
        unsafe { asm!("tilerelease", options(nostack, nomem, preserves_flags)) };
    }
}

/// The activations of a step: for each of two tiles the first row and the bytes from one row to the next.
#[derive(Clone, Copy)]
pub(crate) struct Rows {
    pub(crate) at: [*const u8; 2],
    pub(crate) pitch: [usize; 2],
}

/// Bytes from one row of a tile of weights to the next: there are always two tiles of them side by side.
const WEIGHT_PITCH: usize = 2 * TILE_BYTES;

impl Tiles {
    /// Sets every row of the accumulators to the two vectors at `start`.
    ///
    /// # Safety
    /// 128 bytes are readable at `start`.
    #[inline(always)]
    pub(crate) unsafe fn start<const M: usize, const N: usize>(&self, start: *const i32) {
        macro_rules! load {
            ($tile:tt, $at:tt) => {
                // Every row from the same place.
                asm!(concat!("tileloadd ", $tile, ", [{p} + {none}*1 + ", $at, "]"), p = in(reg) start,
                    none = in(reg) 0usize, out($tile) _, options(nostack, readonly, preserves_flags))
            };
        }
        // SAFETY: the caller's; the tiles are configured.
        unsafe {
            load!("tmm0", "0");
            if N == 2 {
                load!("tmm1", "64");
            }
            if M == 2 {
                load!("tmm2", "0");
            }
            if M == 2 && N == 2 {
                load!("tmm3", "64");
            }
        }
    }

    /// Adds the products of `M` tiles of activations and `N` tiles of weights, 64 inputs deep.
    ///
    /// # Safety
    /// The rows of `a` (16 of each of the `M` tiles) and 16 rows of [`WEIGHT_PITCH`] bytes at `b` are readable.
    #[inline(always)]
    pub(crate) unsafe fn step<const M: usize, const N: usize>(&self, a: Rows, b: *const u8) {
        const { assert!(M >= 1 && M <= 2 && N >= 1 && N <= 2) };
        // SAFETY: the caller's; the tiles are configured.
        unsafe {
            match (M, N) {
                (2, 2) => asm!(
                    "tileloadd tmm4, [{a0} + {p0}*1]",
                    "tileloadd tmm6, [{b} + {pb}*1]",
                    "tdpbusd tmm0, tmm4, tmm6",
                    "tileloadd tmm7, [{b} + {pb}*1 + 64]",
                    "tdpbusd tmm1, tmm4, tmm7",
                    "tileloadd tmm5, [{a1} + {p1}*1]",
                    "tdpbusd tmm2, tmm5, tmm6",
                    "tdpbusd tmm3, tmm5, tmm7",
                    a0 = in(reg) a.at[0], p0 = in(reg) a.pitch[0], a1 = in(reg) a.at[1], p1 = in(reg) a.pitch[1],
                    b = in(reg) b, pb = in(reg) WEIGHT_PITCH,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack, readonly, preserves_flags),
                ),
                (1, 2) => asm!(
                    "tileloadd tmm4, [{a0} + {p0}*1]",
                    "tileloadd tmm6, [{b} + {pb}*1]",
                    "tdpbusd tmm0, tmm4, tmm6",
                    "tileloadd tmm7, [{b} + {pb}*1 + 64]",
                    "tdpbusd tmm1, tmm4, tmm7",
                    a0 = in(reg) a.at[0], p0 = in(reg) a.pitch[0], b = in(reg) b, pb = in(reg) WEIGHT_PITCH,
                    out("tmm0") _, out("tmm1") _, out("tmm4") _, out("tmm6") _, out("tmm7") _,
                    options(nostack, readonly, preserves_flags),
                ),
                (2, _) => asm!(
                    "tileloadd tmm4, [{a0} + {p0}*1]",
                    "tileloadd tmm6, [{b} + {pb}*1]",
                    "tdpbusd tmm0, tmm4, tmm6",
                    "tileloadd tmm5, [{a1} + {p1}*1]",
                    "tdpbusd tmm2, tmm5, tmm6",
                    a0 = in(reg) a.at[0], p0 = in(reg) a.pitch[0], a1 = in(reg) a.at[1], p1 = in(reg) a.pitch[1],
                    b = in(reg) b, pb = in(reg) WEIGHT_PITCH,
                    out("tmm0") _, out("tmm2") _, out("tmm4") _, out("tmm5") _, out("tmm6") _,
                    options(nostack, readonly, preserves_flags),
                ),
                _ => asm!(
                    "tileloadd tmm4, [{a0} + {p0}*1]",
                    "tileloadd tmm6, [{b} + {pb}*1]",
                    "tdpbusd tmm0, tmm4, tmm6",
                    a0 = in(reg) a.at[0], p0 = in(reg) a.pitch[0], b = in(reg) b, pb = in(reg) WEIGHT_PITCH,
                    out("tmm0") _, out("tmm4") _, out("tmm6") _,
                    options(nostack, readonly, preserves_flags),
                ),
            }
        }
    }

    /// Stores the accumulators of the tile of activations `tile` (0 or 1): 32 sums for each of 16 pixels, of which
    /// the last 16 are not written for `N` of 1.
    ///
    /// # Safety
    /// `16 * 32` sums are writable at `to`.
    #[inline(always)]
    pub(crate) unsafe fn store<const N: usize>(&self, to: *mut i32, tile: usize) {
        macro_rules! store {
            ($tile:tt, $at:tt) => {
                asm!(concat!("tilestored [{p} + {pitch}*1 + ", $at, "], ", $tile), p = in(reg) to,
                    pitch = in(reg) 128usize, options(nostack, preserves_flags))
            };
        }
        // SAFETY: the caller's; the tiles are configured.
        unsafe {
            match (tile, N) {
                (0, 1) => store!("tmm0", "0"),
                (0, _) => {
                    store!("tmm0", "0");
                    store!("tmm1", "64");
                }
                (_, 1) => store!("tmm2", "0"),
                _ => {
                    store!("tmm2", "0");
                    store!("tmm3", "64");
                }
            }
        }
    }
}
