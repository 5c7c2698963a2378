#![no_std]
//! Stub while the rooms are laid out.
