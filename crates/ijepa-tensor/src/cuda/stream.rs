//! What happens after what on a GPU? Work on one stream is done in the order in which it was asked for. Work on two streams is done in any
//! order, unless one waits for an [`Event`] of the other.

use super::driver::{Driver, Error, Handle};
use std::ffi::{c_int, c_uint};
use std::rc::Rc;

/// `CU_CTX_SCHED_BLOCKING_SYNC`: who waits for the GPU sleeps, and leaves its core to those who make batches.
const SLEEP_WHILE_WAITING: c_uint = 4;
/// `CU_STREAM_NON_BLOCKING`: the stream does not wait for the default stream.
const NON_BLOCKING: c_uint = 1;
/// `CU_EVENT_BLOCKING_SYNC | CU_EVENT_DISABLE_TIMING`: who waits sleeps, and nobody asks for times.
const SLEEPING_WITHOUT_TIME: c_uint = 3;
/// `CUDA_ERROR_NOT_READY`: there is work on the stream.
const NOT_READY: c_int = 600;

/// The priority of streams that nothing is said of.
pub(super) const USUAL: c_int = 0;
/// A higher one: lower numbers go first.
pub(super) const AHEAD: c_int = -1;

/// What a process has of a GPU, for as long as anything of it is in use.
pub(super) struct Context {
    pub(super) driver: Rc<Driver>,
    device: c_int,
}

impl Context {
    /// The one that all libraries of a process share, made this thread's.
    pub(super) fn of(driver: &Rc<Driver>, device: c_int) -> Result<Rc<Context>, Error> {
        let (call, mut handle) = (&driver.functions, std::ptr::null_mut());
        // SAFETY: the pointer is valid for the call.
        unsafe {
            // No more than a wish: where the context is there already, it stays as it is.
            let _ = (call.cuDevicePrimaryCtxSetFlags_v2)(device, SLEEP_WHILE_WAITING);
            driver.check("cuDevicePrimaryCtxRetain", (call.cuDevicePrimaryCtxRetain)(&raw mut handle, device))?;
        }
        let context = Rc::new(Context { driver: Rc::clone(driver), device });
        // SAFETY: it was retained.
        driver.check("cuCtxSetCurrent", unsafe { (call.cuCtxSetCurrent)(handle) })?;
        Ok(context)
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: what was made in this context holds it, so nothing uses it any more.
        unsafe { (self.driver.functions.cuDevicePrimaryCtxRelease_v2)(self.device) };
    }
}

/// Work in the order in which it was asked for.
pub(super) struct Stream {
    context: Rc<Context>,
    handle: Handle,
}

/// A place in the work of a stream.
pub(super) struct Event {
    context: Rc<Context>,
    handle: Handle,
}

impl Stream {
    /// One without work, of [`USUAL`] or another priority.
    pub(super) fn of(context: &Rc<Context>, priority: c_int) -> Result<Stream, Error> {
        let mut handle = std::ptr::null_mut();
        // SAFETY: the pointer is valid for the call. Priorities that a GPU does not have are taken for the nearest.
        let code =
            unsafe { (context.driver.functions.cuStreamCreateWithPriority)(&raw mut handle, NON_BLOCKING, priority) };
        context.driver.check("cuStreamCreateWithPriority", code)?;
        Ok(Stream { context: Rc::clone(context), handle })
    }

    /// What the driver and other libraries call it.
    pub(super) fn handle(&self) -> Handle {
        self.handle
    }

    /// Waits until all that was asked for is done.
    pub(super) fn synchronise(&self) -> Result<(), Error> {
        let driver = &self.context.driver;
        // SAFETY: the stream lives as long as `self`.
        driver.check("cuStreamSynchronize", unsafe { (driver.functions.cuStreamSynchronize)(self.handle) })
    }

    /// Whether all that was asked for is done.
    pub(super) fn is_done(&self) -> Result<bool, Error> {
        let driver = &self.context.driver;
        // SAFETY: the stream lives as long as `self`.
        match unsafe { (driver.functions.cuStreamQuery)(self.handle) } {
            NOT_READY => Ok(false),
            code => driver.check("cuStreamQuery", code).map(|()| true),
        }
    }

    /// The event is from now on the end of all that was asked for until now.
    pub(super) fn record(&self, event: &Event) -> Result<(), Error> {
        let driver = &self.context.driver;
        // SAFETY: stream and event live.
        let code = unsafe { (driver.functions.cuEventRecord)(event.handle, self.handle) };
        driver.check("cuEventRecord", code)
    }

    /// What is asked for from now on begins after the event, as it was last recorded.
    pub(super) fn wait_for(&self, event: &Event) -> Result<(), Error> {
        let driver = &self.context.driver;
        // SAFETY: stream and event live.
        let code = unsafe { (driver.functions.cuStreamWaitEvent)(self.handle, event.handle, 0) };
        driver.check("cuStreamWaitEvent", code)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // SAFETY: the handle came from the driver, and is not used again.
        unsafe { (self.context.driver.functions.cuStreamDestroy_v2)(self.handle) };
    }
}

impl Event {
    /// One that has not been recorded, and so is not waited for.
    pub(super) fn of(context: &Rc<Context>) -> Result<Event, Error> {
        let mut handle = std::ptr::null_mut();
        // SAFETY: the pointer is valid for the call.
        let code = unsafe { (context.driver.functions.cuEventCreate)(&raw mut handle, SLEEPING_WITHOUT_TIME) };
        context.driver.check("cuEventCreate", code)?;
        Ok(Event { context: Rc::clone(context), handle })
    }

    /// Waits until what comes before it is done.
    pub(super) fn synchronise(&self) -> Result<(), Error> {
        let driver = &self.context.driver;
        // SAFETY: the event lives as long as `self`.
        driver.check("cuEventSynchronize", unsafe { (driver.functions.cuEventSynchronize)(self.handle) })
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: the handle came from the driver, and is not used again.
        unsafe { (self.context.driver.functions.cuEventDestroy_v2)(self.handle) };
    }
}
