//! The memory that a tape works on.
use super::{claims::Claims, step::Found};
use crate::{conv::Scratch, dynamic::Extremes};
use std::sync::atomic::{AtomicUsize, Ordering};

/// The memory of the runs of one caller, kept from run to run. It holds nothing that a result depends on.
#[derive(Debug, Default)]
pub struct Workspace {
    pub(super) arena: Arena,
    pub(super) locals: Vec<Local>,
    pub(super) claims: Claims,
    pub(super) fault: Fault,
}

/// The first step that could not do its work, counted from 1; 0: none.
#[derive(Debug, Default)]
pub(super) struct Fault(AtomicUsize);

impl Fault {
    fn clear(&mut self) {
        *self.0.get_mut() = 0;
    }
    /// Step `number` could not do its work. The first one stays.
    pub(super) fn of(&self, number: usize) {
        let first = |old: usize| if old == 0 || old > number + 1 { Some(number + 1) } else { None };
        // What it held does not matter.
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, first);
    }
}

impl Workspace {
    /// Empty; it grows to what the tapes need.
    pub fn new() -> Workspace {
        Workspace::default()
    }

    /// The arena's bytes: codes where the last run left them.
    pub fn bytes(&self) -> &[u8] {
        self.arena.bytes()
    }

    /// Some of the arena's bytes, to put codes there between the runs of tapes that need `arena` bytes. Where it is smaller, all that it holds is lost.
    ///
    /// # Panics
    /// When the range does not lie within them.
    pub fn bytes_mut(&mut self, arena: usize, range: std::ops::Range<usize>) -> &mut [u8] {
        self.arena.grow(arena);
        &mut self.arena.bytes_mut()[range]
    }

    /// The first step of the last run that could not do its work: one that quantizes by the extremes of its numbers, of which some
    /// were NaN, infinite, or so far apart that their range is beyond binary32. What the run has written is of no use then.
    pub fn fault(&self) -> Option<usize> {
        self.fault.0.load(Ordering::Relaxed).checked_sub(1)
    }

    pub(super) fn ready(&mut self, arena: usize, members: usize) {
        self.arena.grow(arena);
        self.fault.clear();
        if self.locals.len() < members {
            self.locals.resize_with(members, Local::default);
        }
    }
}

/// Bytes that were zero once, aligned to a line of the cache.
#[derive(Debug, Default)]
pub(super) struct Arena {
    /// Plain bytes: the system gives zeroed ones without touching them, so that a page takes memory when something is written there.
    memory: Vec<u8>,
    /// The first aligned byte.
    start: usize,
    len: usize,
}

/// Bytes of a line of the cache.
const LINE: usize = 64;

impl Arena {
    /// Grows to at least `bytes`; what it holds may be lost.
    fn grow(&mut self, bytes: usize) {
        let bytes = bytes.next_multiple_of(LINE);
        if self.len < bytes {
            self.memory = Vec::new();
            self.memory = vec![0; bytes + LINE];
            self.start = self.memory.as_ptr().align_offset(LINE).min(LINE);
            self.len = bytes;
        }
    }

    fn bytes(&self) -> &[u8] {
        &self.memory[self.start..][..self.len]
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..][..self.len]
    }

    pub(super) fn as_mut_ptr(&mut self) -> *mut u8 {
        self.memory[self.start..].as_mut_ptr()
    }

    /// Bytes from the share of one member to that of the next, where each has `bytes` bytes of its own.
    pub(super) fn share(bytes: usize) -> usize {
        bytes.next_multiple_of(LINE)
    }
}

/// Memory that a member of a team keeps between runs.
#[derive(Debug, Default)]
pub(super) struct Local {
    pub(super) scratch: Scratch,
    pub(super) block: Vec<u8>,
    pub(super) floats: Vec<f32>,
    pub(super) sums: Vec<f64>,
    pub(super) ints: Vec<i32>,
    pub(super) bytes: Vec<i8>,
}

/// A buffer of real numbers of the caller's.
#[derive(Debug)]
pub enum Real<'a> {
    /// The tape reads it.
    Read(&'a [f32]),
    /// The tape writes it.
    Write(&'a mut [f32]),
}

impl Real<'_> {
    pub(super) fn kind(&self) -> (usize, bool) {
        match self {
            Real::Read(x) => (x.len(), false),
            Real::Write(y) => (y.len(), true),
        }
    }

    fn as_ptr(&mut self) -> *mut f32 {
        match self {
            Real::Read(x) => x.as_ptr().cast_mut(),
            Real::Write(y) => y.as_mut_ptr(),
        }
    }
}

/// What the members of a team share during one run.
pub(super) struct Memory<'a> {
    arena: *mut u8,
    reals: &'a [RealPtr],
    locals: *mut Local,
    pub(super) fault: &'a Fault,
    /// Which part of each buffer of real numbers is meant.
    part: usize,
}

/// A buffer of real numbers.
#[derive(Clone, Copy)]
pub(super) struct RealPtr {
    start: *mut f32,
    /// Elements of a part.
    len: usize,
}

impl RealPtr {
    /// A buffer of so many parts.
    pub(super) fn of(real: &mut Real, parts: usize) -> RealPtr {
        RealPtr { start: real.as_ptr(), len: real.kind().0 / parts }
    }
}

// SAFETY: every member writes only pieces of a step's output that it alone has taken (the steps were checked when the tape was
// made), and reads what was written in steps that are done; each member uses only its own local memory.
unsafe impl Sync for Memory<'_> {}

impl<'a> Memory<'a> {
    pub(super) fn new(
        arena: &'a mut Arena,
        reals: &'a [RealPtr],
        locals: &'a mut [Local],
        fault: &'a Fault,
    ) -> Memory<'a> {
        Memory { arena: arena.as_mut_ptr(), reals, locals: locals.as_mut_ptr(), fault, part: 0 }
    }

    /// The same with an arena that begins `at` bytes further on, and with another part of the buffers of real numbers.
    pub(super) fn part(&self, at: usize, part: usize) -> Memory<'a> {
        Memory { arena: self.start(at), part, ..*self }
    }

    /// The memory of member `index`.
    ///
    /// # Safety
    /// `index` is below the number of locals, and nobody else uses this one meanwhile.
    #[allow(clippy::mut_from_ref)]
    pub(super) unsafe fn local(&self, index: usize) -> &mut Local {
        // SAFETY: the caller's.
        unsafe { &mut *self.locals.add(index) }
    }

    /// Bytes of the arena.
    ///
    /// # Safety
    /// They lie within the arena and nobody writes them meanwhile.
    pub(super) unsafe fn read(&self, at: usize, len: usize) -> &[u8] {
        // SAFETY: the caller's.
        unsafe { std::slice::from_raw_parts(self.arena.add(at), len) }
    }

    /// Bytes of the arena.
    ///
    /// # Safety
    /// They lie within the arena and nobody else reads or writes them meanwhile.
    #[allow(clippy::mut_from_ref)]
    pub(super) unsafe fn write(&self, at: usize, len: usize) -> &mut [u8] {
        // SAFETY: the caller's.
        unsafe { std::slice::from_raw_parts_mut(self.arena.add(at), len) }
    }

    /// Real numbers of the arena, from a multiple of four bytes on.
    ///
    /// # Safety
    /// As [`Memory::read`].
    pub(super) unsafe fn read_f32(&self, at: usize, len: usize) -> &[f32] {
        // SAFETY: the caller's; the arena is aligned.
        unsafe { std::slice::from_raw_parts(self.arena.add(at).cast(), len) }
    }

    /// Words of the arena, from an even byte on.
    ///
    /// # Safety
    /// As [`Memory::read`].
    pub(super) unsafe fn words(&self, at: usize, len: usize) -> &[i16] {
        // SAFETY: the caller's; the arena is aligned.
        unsafe { std::slice::from_raw_parts(self.arena.add(at).cast(), len) }
    }

    /// Words of the arena, from an even byte on.
    ///
    /// # Safety
    /// As [`Memory::write`].
    #[allow(clippy::mut_from_ref)]
    pub(super) unsafe fn words_mut(&self, at: usize, len: usize) -> &mut [i16] {
        // SAFETY: the caller's; the arena is aligned.
        unsafe { std::slice::from_raw_parts_mut(self.arena.add(at).cast(), len) }
    }

    /// Sums of 32 bits of the arena, from a multiple of four bytes on.
    ///
    /// # Safety
    /// As [`Memory::read`].
    pub(super) unsafe fn sums(&self, at: usize, len: usize) -> &[i32] {
        // SAFETY: the caller's; the arena is aligned.
        unsafe { std::slice::from_raw_parts(self.arena.add(at).cast(), len) }
    }

    /// Writes entry `run` of `found`.
    ///
    /// # Safety
    /// As [`Memory::write`] of the entry.
    pub(super) unsafe fn note(&self, found: Found, run: usize, of: Extremes) {
        // SAFETY: the caller's; the arena is aligned, and the entry a multiple of 4 bytes.
        unsafe {
            let to = self.arena.add(found.at + run * Found::ENTRY);
            to.cast::<[f32; 2]>().write([of.low, of.high]);
            to.add(8).cast::<i32>().write(of.magnitude);
        }
    }

    /// All of `found` together.
    ///
    /// # Safety
    /// As [`Memory::read`] of all entries.
    pub(super) unsafe fn found(&self, found: Found) -> Extremes {
        (0..found.runs).fold(Extremes::NONE, |all, run| {
            // SAFETY: the caller's; the arena is aligned, and the entry a multiple of 4 bytes.
            let (reals, magnitude) = unsafe {
                let from = self.arena.add(found.at + run * Found::ENTRY);
                (from.cast::<[f32; 2]>().read(), from.add(8).cast::<i32>().read())
            };
            all.and(Extremes { low: reals[0], high: reals[1], magnitude })
        })
    }

    /// The address of byte `at` of the arena.
    pub(super) fn start(&self, at: usize) -> *mut u8 {
        self.arena.wrapping_add(at)
    }

    /// Elements of buffer `real`.
    ///
    /// # Safety
    /// They lie within the buffer and nobody writes them meanwhile.
    pub(super) unsafe fn real(&self, real: usize, at: usize, len: usize) -> &[f32] {
        // SAFETY: the caller's.
        unsafe { std::slice::from_raw_parts(self.real_start(real).add(at), len) }
    }

    /// Where buffer `real` starts.
    pub(super) fn real_start(&self, real: usize) -> *mut f32 {
        let RealPtr { start, len } = self.reals[real];
        start.wrapping_add(self.part * len)
    }
}
