//! `nnq analyze`: its mathematics against plain loops, and planted faults that it must find and whose repair must work.
mod faults;
mod layers;
