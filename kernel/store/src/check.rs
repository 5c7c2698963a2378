//! stub
use crate::device::BlockDevice;
use crate::error::Result;
use crate::pool::Progress;
use crate::shell::Shell;
use crate::types::CheckReport;
pub(crate) async fn check<D: BlockDevice>(
    _shell: &Shell<D>,
    _data: bool,
    _progress: &Progress,
) -> Result<CheckReport> {
    Ok(CheckReport::default())
}
