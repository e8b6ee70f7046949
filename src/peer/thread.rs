//! Viewers are served from a thread of their own: what reads the disk and encrypts all day keeps nobody
//! else waiting there.

use std::io;
use std::panic::resume_unwind;
use std::thread::Builder;

use tokio::runtime;
use tokio::sync::oneshot;

/// Runs `work` on a thread of this name, in a runtime of its own; ends, or panics, as that does.
///
/// # Errors
/// What the system says when it gives no thread, and what `work` says.
pub(super) async fn run<F>(name: &str, work: impl FnOnce() -> F + Send + 'static) -> io::Result<()>
where
    F: Future<Output = io::Result<()>>,
{
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let (done, is_done) = oneshot::channel::<()>();
    let thread = Builder::new().name(name.to_owned()).spawn(move || {
        let _done = done;
        runtime.block_on(work())
    })?;
    // It is dropped, also by a panic.
    let _ = is_done.await;
    thread.join().unwrap_or_else(|panic| resume_unwind(panic))
}
