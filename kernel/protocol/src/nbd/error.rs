//! The errors that a request may get.

/// Errors as NBD numbers them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum ErrorNumber {
    /// `EPERM`: the export is read-only.
    NotPermitted = 1,
    /// `EIO`: a device failed or data failed verification.
    Io = 5,
    /// `ENOMEM`: memory is short; try again.
    NoMemory = 12,
    /// `EINVAL`: the request is wrong.
    Invalid = 22,
    /// `ENOSPC`: the pool is full, or a write ends beyond the export.
    NoSpace = 28,
    /// `EOVERFLOW`: too long for one chunk.
    Overflow = 75,
    /// `ENOTSUP`: cannot be done fast.
    NotSupported = 95,
    /// `ESHUTDOWN`: the appliance is going down.
    Shutdown = 108,
}
