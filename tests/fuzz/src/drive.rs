//! Runs futures over hardware that answers at once, with a bound on their turns: what waits or goes on for
//! ever is found by counting.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

/// Turns after which work counts as hanging. The longest honest one takes a few thousand.
const TURNS_MAX: u32 = 200_000;

/// Drives `work` to its end beside `background`, which has none.
pub(crate) fn drive<T>(work: impl Future<Output = T>, background: impl Future) -> T {
    let (mut work, mut background) = (pin!(work), pin!(background));
    let mut context = Context::from_waker(Waker::noop());
    for _ in 0..TURNS_MAX {
        if let Poll::Ready(result) = work.as_mut().poll(&mut context) {
            return result;
        }
        let _goes_on = background.as_mut().poll(&mut context);
    }
    panic!("this work does not end");
}

/// Lets others have their turn.
pub(crate) async fn turn() {
    let mut waited = false;
    std::future::poll_fn(
        |_| if std::mem::replace(&mut waited, true) { Poll::Ready(()) } else { Poll::Pending },
    )
    .await;
}
