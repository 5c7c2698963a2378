//! COM1: the boot log, reports of panics, and a byte channel for the console where no console port exists.
//!
//! The log is written synchronously and gives up on a line that does not move rather than hold the appliance.
//! The console's side is asynchronous both ways. A machine without COM1 swallows output and never has input.

use core::fmt::{self, Write};
use core::future::poll_fn;
use core::task::{Poll, Waker};
use spin::Mutex;
use uart_16550::backend::PioBackend;
use uart_16550::spec::registers::IER;
use uart_16550::{Config, Uart16550};

use crate::interrupts::{self, OutOfVectors};

const COM1_PORT: u16 = 0x3F8;
const COM1_LINE: u8 = 4;
/// How often to look for a free transmitter before a byte of the log is dropped: some tenths of a second.
const PATIENCE: u32 = 200_000;

static COM1: Mutex<Com1> = Mutex::new(Com1 { uart: None, receiver: None, sender: None });

struct Com1 {
    uart: Option<Uart16550<PioBackend>>,
    receiver: Option<Waker>,
    sender: Option<Waker>,
}

/// Sets COM1 to 115200 8N1. Only on the bare machine; the first thing `boot` does.
pub fn initialise() {
    let config = Config { baud_rate: uart_16550::BaudRate::Baud115200, ..Config::default() };
    // SAFETY: these ports are COM1's on every PC, and this driver alone uses them.
    let Ok(mut uart) = (unsafe { Uart16550::new_port(COM1_PORT) }) else { return };
    if uart.init(config).is_ok() {
        COM1.lock().uart = Some(uart);
    }
}

/// Lets input and free output space wake [`receive`] and [`send`].
pub fn enable_interrupts() -> Result<(), OutOfVectors> {
    interrupts::register_isa(COM1_LINE, |_| wake(), 0)?;
    if let Some(uart) = &mut COM1.lock().uart {
        uart.enable_interrupts(IER::DATA_READY);
    }
    Ok(())
}

/// The interrupt's handler: who waits looks again. The line falls once its cause is dealt with there.
fn wake() {
    let (receiver, sender) = {
        let mut com1 = COM1.lock();
        if let Some(uart) = &mut com1.uart {
            uart.disable_interrupts(IER::THR_EMPTY);
            // Reading the cause acknowledges an empty transmitter.
            uart.isr();
        }
        (com1.receiver.take(), com1.sender.take())
    };
    receiver.into_iter().chain(sender).for_each(Waker::wake);
}

/// Waits for input and takes what is there, at most `into.len()` bytes.
pub async fn receive(into: &mut [u8]) -> usize {
    poll_fn(|context| {
        let mut com1 = COM1.lock();
        let count = com1.uart.as_mut().map_or(0, |uart| uart.receive_bytes(into));
        if count > 0 || into.is_empty() {
            return Poll::Ready(count);
        }
        com1.receiver = Some(context.waker().clone());
        Poll::Pending
    })
    .await
}

/// Waits until there is input, and leaves it there.
pub async fn readable() {
    poll_fn(|context| {
        let mut com1 = COM1.lock();
        if com1.uart.as_mut().is_some_and(|uart| uart.ready_to_receive().is_ok()) {
            return Poll::Ready(());
        }
        com1.receiver = Some(context.waker().clone());
        Poll::Pending
    })
    .await
}

/// Sends all of `bytes`, giving way to other work while the transmitter is busy.
pub async fn send(bytes: &[u8]) {
    let mut sent = 0;
    poll_fn(|context| {
        let mut com1 = COM1.lock();
        let Some(uart) = &mut com1.uart else { return Poll::Ready(()) };
        while sent < bytes.len() {
            let count = uart.send_bytes(&bytes[sent..]);
            if count == 0 {
                uart.enable_interrupts(IER::THR_EMPTY);
                com1.sender = Some(context.waker().clone());
                return Poll::Pending;
            }
            sent += count;
        }
        Poll::Ready(())
    })
    .await
}

/// Writes to the log at once; see [`log!`](crate::log).
pub fn write_log(text: fmt::Arguments<'_>) {
    let mut com1 = COM1.lock();
    if let Some(uart) = &mut com1.uart {
        // A log has nowhere to report its own failure to.
        let _ = Log(uart).write_fmt(text);
    }
}

/// Writes to the log from the report of a panic or fault, also one that struck while COM1 was in use.
pub fn write_report(text: fmt::Arguments<'_>) {
    if COM1.is_locked() {
        // SAFETY: one core, and a report never returns to what it interrupted: the holder does not run again.
        unsafe { COM1.force_unlock() }
    }
    write_log(text);
}

/// Prints one line on COM1, as `println!` does.
#[macro_export]
macro_rules! log {
    ($($argument:tt)*) => {
        $crate::uart::write_log(format_args!("{}\r\n", format_args!($($argument)*)))
    };
}

struct Log<'a>(&'a mut Uart16550<PioBackend>);

impl Write for Log<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.bytes().try_for_each(|byte| {
            let sent = (0..PATIENCE).any(|_| self.0.try_send_byte(byte).is_ok());
            if sent { Ok(()) } else { Err(fmt::Error) }
        })
    }
}
