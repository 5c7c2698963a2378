//! Stub while the rooms are laid out.
