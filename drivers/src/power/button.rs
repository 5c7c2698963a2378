//! The power button: what QEMU's `system_powerdown` and a management tool's "shut down" press.
//!
//! It is a fixed event of ACPI's (specification 6.4, sections 4.8.2.2 and 4.8.3.1): pressing sets a bit of the status
//! register, and the enabled bit raises the system control interrupt. On both chipsets that is ISA line 9, active high, and
//! the I/O APIC leads it to the pin of the same number. It is taken by its edge: the line falls when the handler
//! clears the bit, and nothing else that could hold it up is enabled.

use super::acpi::Fixed;
use crate::interrupts::{self, OutOfVectors};
use core::future::poll_fn;
use core::sync::atomic::{AtomicU16, Ordering};
use core::task::{Poll, Waker};
use spin::Mutex;
use x86_64::instructions::port::Port;

/// The button's bit, in the status register and in the enable register.
const BUTTON: u16 = 1 << 8;
/// The control register's bit that says that events are ACPI's and no longer the firmware's.
const ACPI_ENABLED: u16 = 1;
/// Looks at that bit until the firmware counts as one that does not answer.
const LOOKS_MAX: u32 = 100_000;
/// Writing all ones to the status register clears every event.
const ALL_EVENTS: u16 = 0xFFFF;

/// The status register; 0 where there is no button.
static STATUS_PORT: AtomicU16 = AtomicU16::new(0);
static STATE: Mutex<State> = Mutex::new(State { pressed: false, waiter: None });

struct State {
    pressed: bool,
    waiter: Option<Waker>,
}

/// Lets the button interrupt.
pub(super) fn enable(fixed: &Fixed) -> Result<(), OutOfVectors> {
    let Some(events) = fixed.events else { return Ok(()) };
    STATUS_PORT.store(events.status_port, Ordering::Relaxed);
    interrupts::register_isa(events.line, |_| look(), 0)?;
    let mut control = Port::<u16>::new(fixed.control_port);
    // SAFETY: ACPI's fixed table names these registers. Writing them hands events to us and touches no memory; nothing was
    // asked of the firmware that it would still need them for.
    unsafe {
        if control.read() & ACPI_ENABLED == 0
            && let Some((port, value)) = events.hand_over
        {
            Port::<u8>::new(port).write(value);
            let _ = (0..LOOKS_MAX).any(|_| control.read() & ACPI_ENABLED != 0);
        }
        Port::<u16>::new(events.status_port).write(ALL_EVENTS);
        Port::<u16>::new(events.enable_port).write(BUTTON);
    }
    Ok(())
}

/// The interrupt's handler: takes the press, which lets the line fall.
fn look() {
    let mut status = Port::<u16>::new(STATUS_PORT.load(Ordering::Relaxed));
    // SAFETY: the register that `enable` found; writing a bit clears that event and nothing else.
    let pressed = unsafe {
        let pressed = status.read() & BUTTON != 0;
        status.write(BUTTON);
        pressed
    };
    let mut state = STATE.lock();
    state.pressed |= pressed;
    let waiter = if pressed { state.waiter.take() } else { None };
    drop(state);
    if let Some(waiter) = waiter {
        waiter.wake();
    }
}

/// Waits until the power button is pressed. One task may wait. On a machine without the button it never completes.
pub async fn button_pressed() {
    poll_fn(|context| {
        let mut state = STATE.lock();
        if core::mem::take(&mut state.pressed) {
            return Poll::Ready(());
        }
        state.waiter = Some(context.waker().clone());
        Poll::Pending
    })
    .await
}
