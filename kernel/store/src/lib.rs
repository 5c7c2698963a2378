#![no_std]
#![forbid(unsafe_code)]
//! Stub while the rooms are laid out.
