//! A connection that can be cut within a response.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Where a response is cut, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cut {
    pub(super) place: Place,
    pub(super) manner: Manner,
}

/// Where a response is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Start,
    Headers,
    Body,
}

/// How a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Manner {
    /// With a FIN, as after a complete response.
    Close,
    /// With a RST.
    Reset,
}

/// Controls a [`Line`]: sets where the next response is cut.
#[derive(Debug, Clone, Default)]
pub(super) struct Scissors(Arc<Mutex<Option<Cut>>>);

impl Scissors {
    pub(super) fn cut_next(&self, cut: Cut) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(cut);
    }

    fn planned(&self) -> Option<Cut> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A TCP connection.
#[derive(Debug)]
pub(super) struct Line {
    stream: TcpStream,
    scissors: Scissors,
    /// Bytes to send before the cut.
    left: Option<usize>,
}

/// Within the first header, after `HTTP/1.1 200 OK`.
const WITHIN_HEADERS: usize = 21;

impl Line {
    pub(super) fn new(stream: TcpStream, scissors: Scissors) -> Line {
        Line {
            stream,
            scissors,
            left: None,
        }
    }

    /// The server writes the headers at once, together with a small body.
    fn bytes_before(place: Place, answer: &[u8]) -> usize {
        let end_of_headers = answer.windows(4).position(|four| four == b"\r\n\r\n");
        let headers = end_of_headers.map_or(answer.len(), |position| position + 4);
        match place {
            Place::Start => 0,
            Place::Headers => WITHIN_HEADERS.min(headers),
            Place::Body => headers + (answer.len() - headers) / 2,
        }
    }
}

impl AsyncRead for Line {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Line {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let Some(Cut { place, manner }) = self.scissors.planned() else {
            return Pin::new(&mut self.stream).poll_write(context, bytes);
        };
        let left = self
            .left
            .unwrap_or_else(|| Line::bytes_before(place, bytes));
        let now = left.min(bytes.len());
        let written = if now == 0 {
            0
        } else {
            match Pin::new(&mut self.stream).poll_write(context, &bytes[..now]) {
                Poll::Ready(Ok(written)) => written,
                other => return other,
            }
        };
        self.left = Some(left - written);
        if written < left {
            return Poll::Ready(Ok(written));
        }
        if manner == Manner::Reset {
            self.stream.set_zero_linger()?;
        }
        // The server closes a connection that it cannot write to.
        Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
