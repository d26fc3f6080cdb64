//! Spans and events for whoever listens; nothing without the feature `tracing`. The levels are documented in
//! `docs/observability.md`.

/// A span of the given level, name and fields.
macro_rules! span {
    ($level:ident, $name:literal $(, $key:ident = $value:expr)*) => {{
        #[cfg(feature = "tracing")]
        let span = tracing::span!(
            target: "wgrad", tracing::Level::$level, $name $(, $key = $value)*
        );
        #[cfg(not(feature = "tracing"))]
        let span = $crate::trace::Silent;
        span
    }};
}

/// An event of the given level, message and fields.
macro_rules! event {
    ($level:ident, $message:literal $(, $key:ident = $value:expr)*) => {{
        #[cfg(feature = "tracing")]
        tracing::event!(
            target: "wgrad", tracing::Level::$level, $($key = $value,)* $message
        );
    }};
}

pub(crate) use {event, span};

/// A span that nobody sees.
#[cfg(not(feature = "tracing"))]
pub(crate) struct Silent;

#[cfg(not(feature = "tracing"))]
impl Silent {
    pub fn in_scope<R>(&self, f: impl FnOnce() -> R) -> R {
        f()
    }
}

/// Runs `future` inside a span.
#[cfg(feature = "tracing")]
pub(crate) fn within<F: Future>(span: tracing::Span, future: F) -> impl Future<Output = F::Output> {
    tracing::Instrument::instrument(future, span)
}

/// Runs `future`.
#[cfg(not(feature = "tracing"))]
pub(crate) fn within<F: Future>(_: Silent, future: F) -> impl Future<Output = F::Output> {
    future
}
