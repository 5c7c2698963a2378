//! The panic handler: the report is `boot`'s, which knows the stacks.

use core::panic::PanicInfo;

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    datum_boot::report_panic(info)
}
