//! Console sessions.
use crate::appliance::Appliance;
use crate::environment::Environment;
use crate::port::Port;
use alloc::rc::Rc;
use datum_store::device::BlockDevice;

/// Serves people on a port; never returns.
pub(crate) async fn serve<D: BlockDevice + 'static, E: Environment + 'static, P: Port>(
    _appliance: &Rc<Appliance<D, E>>,
    port: P,
) {
    loop {
        port.accept().await;
    }
}
