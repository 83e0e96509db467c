//! Reads of the store for operators, beside traffic: on threads of their own, a few at a time, and behind everything else when
//! there is not enough CPU for both.

use std::sync::{Arc, LazyLock};

use tokio::sync::{Semaphore, oneshot};

use super::{Context, Fault};
use crate::store::StoreError;
use crate::store::sqlite::Reader;

/// Reads at a time; others wait for their turn.
const AT_A_TIME: usize = 4;
/// Niceness of a reading thread: with four busy threads of traffic on two cores it gets about a fifteenth of them.
const NICE: i32 = 5;

static TURNS: LazyLock<Arc<Semaphore>> = LazyLock::new(|| Arc::new(Semaphore::new(AT_A_TIME)));

/// Runs a read on a thread of its own.
///
/// # Errors
/// `E_STORAGE` with what the store says.
pub(super) async fn read<R: Send + 'static>(
    context: &Context,
    work: impl FnOnce(&Reader) -> Result<R, StoreError> + Send + 'static,
) -> Result<R, Fault> {
    let lost = || Fault::unavailable("the read was interrupted");
    // Held by the thread: a client that goes away does not make room for another read while its own still runs.
    let turn = Arc::clone(&TURNS).acquire_owned().await.map_err(|_| lost())?;
    let path = context.store.clone();
    let (tell, told) = oneshot::channel();
    std::thread::Builder::new()
        .name("reader".into())
        .spawn(move || {
            // Of this thread alone, as Linux has it; where it is not allowed the read is as urgent as any other.
            let _nice = rustix::process::setpriority_process(None, NICE);
            let _gone = tell.send(Reader::open(&path).and_then(|reader| work(&reader)));
            drop(turn);
        })
        .map_err(|_| Fault::unavailable("no thread for the read"))?;
    told.await
        .map_err(|_| lost())?
        .map_err(|e| Fault::new("E_STORAGE", e.to_string()))
}
