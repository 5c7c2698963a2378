#![no_std]
#![no_main]
#![forbid(unsafe_code)]
//! The appliance's binary: the composition root.

use bootloader_api::{BootInfo, entry_point};
use core::panic::PanicInfo;
use datum_drivers::log;

entry_point!(main);

fn main(boot_info: &'static mut BootInfo) -> ! {
    log!(
        "datum {}: {} regions, command line '{}'",
        env!("CARGO_PKG_VERSION"),
        boot_info.memory_regions.len(),
        datum_boot::command_line()
    );
    datum_boot::selftest(datum_boot::command_line().strip_prefix("selftest=").unwrap_or(""));
    datum_drivers::power::exit(datum_drivers::power::ExitCode::Success)
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    datum_boot::report_panic(info)
}
