#![no_std]
#![no_main]
#![forbid(unsafe_code)]
//! The appliance's binary, and nothing but a composition root: it alone knows both the engine and the devices.
//!
//! `boot` calls [`main`] with memory mapped, the heap ready and exceptions reported. From there: options, the machine,
//! the first task (which finds the devices and starts the service), and the executor until the end.

extern crate alloc;

mod commandline;
mod devices;
mod disk;
mod environment;
mod executor;
mod machine;
mod panic;
mod port;
mod serial_port;
mod service;

use bootloader_api::{BootInfo, entry_point};
use commandline::Options;
use datum_drivers::log;
use executor::Executor;

entry_point!(main);

fn main(boot_info: &'static mut BootInfo) -> ! {
    log!("datum {}", env!("CARGO_PKG_VERSION"));
    let options = Options::parse(datum_boot::command_line());
    datum_boot::set_panic_action(options.panic);
    options.complaints.iter().for_each(|complaint| log!("datum: {complaint}"));
    machine::start(boot_info.rsdp_addr.into_option());
    if let Some(name) = options.selftest {
        datum_boot::selftest(name);
        log!("datum: there is no selftest '{name}'");
    }
    let executor = Executor::default();
    executor.spawn(service::start(executor.clone(), options));
    executor.run()
}
