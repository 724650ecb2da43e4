//! Responses and errors, in the formats of gateway, service and IAM.

use std::convert::Infallible;
use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::stream;
use http_body_util::{Either, Full, StreamBody};
use hyper::body::{Bytes, Frame};
use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};
use serde::Serialize;
use serde_json::{Value, json};

use super::fault::{ErrorBody, Fault};

/// With a length, or chunked.
pub(super) type Body = Either<
    Full<Bytes>,
    StreamBody<stream::Iter<std::vec::IntoIter<Result<Frame<Bytes>, Infallible>>>>,
>;

/// A response before it gets its request id.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) body: Vec<u8>,
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    pub(super) is_chunked: bool,
}

impl Answer {
    /// Labelled as JSON, even if it is not.
    pub(super) fn bytes(status: StatusCode, body: Vec<u8>) -> Answer {
        Answer {
            status,
            body,
            headers: Vec::new(),
            is_chunked: false,
        }
    }

    pub(super) fn json(status: StatusCode, body: &impl Serialize) -> Answer {
        match serde_json::to_vec(body) {
            Ok(body) => Answer::bytes(status, body),
            Err(error) => Answer::bytes(
                StatusCode::INTERNAL_SERVER_ERROR,
                error.to_string().into_bytes(),
            ),
        }
    }

    pub(super) fn text(status: u16, body: String) -> Answer {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Answer::bytes(status, body.into_bytes())
    }

    /// In the format of nginx, which such gateways are based on.
    pub(super) fn web_page(status: StatusCode, title: &str) -> Answer {
        let page = format!(
            "<html>\r\n<head><title>{title}</title></head>\r\n<body>\r\n<center><h1>{title}</h1></center>\r\n</body>\r\n</html>\r\n"
        );
        Answer {
            headers: vec![(CONTENT_TYPE, HeaderValue::from_static("text/html"))],
            ..Answer::bytes(status, page.into_bytes())
        }
    }

    pub(super) fn server_error(status: u16, body: ErrorBody) -> Answer {
        let answer = Answer::text(status, String::new());
        let reason = answer.status.canonical_reason().unwrap_or_default();
        match body {
            ErrorBody::Json => Answer::json(
                answer.status,
                &json!({"error_code": format!("SVCSTG.SWR.{status}0000"), "error_msg": reason}),
            ),
            ErrorBody::Html => Answer::web_page(answer.status, &format!("{status} {reason}")),
            ErrorBody::Empty => answer,
        }
    }

    /// Applies a fault to the response before it is sent.
    pub(super) fn spoil(&mut self, fault: &Fault, accepts_gzip: bool) {
        match fault {
            Fault::Chunked | Fault::UnfinishedChunks => self.is_chunked = true,
            Fault::HalfDocument => self.body.truncate(self.body.len() / 2),
            Fault::WrongContentType => {
                let html = HeaderValue::from_static("text/html; charset=utf-8");
                self.headers.push((CONTENT_TYPE, html));
            }
            Fault::Gzip if accepts_gzip => self.compress(),
            Fault::DamagedGzip if accepts_gzip => {
                self.compress();
                let middle = self.body.len() / 2;
                self.body[middle] ^= 0x55;
            }
            _ => {}
        }
    }

    fn compress(&mut self) {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        // Writing to memory does not fail; if it did, the body would be sent unchanged.
        let compressed = encoder
            .write_all(&self.body)
            .and_then(|()| encoder.finish());
        if let Ok(compressed) = compressed {
            self.body = compressed;
            self.headers
                .push((CONTENT_ENCODING, HeaderValue::from_static("gzip")));
        }
    }

    pub(super) fn into_response(self, request_id: &str) -> Response<Body> {
        let Answer {
            status,
            body,
            headers,
            is_chunked,
        } = self;
        let body = if is_chunked {
            let chunk = body.len().div_ceil(3).max(1);
            let chunks: Vec<_> = body
                .chunks(chunk)
                .map(|chunk| Ok(Frame::data(Bytes::copy_from_slice(chunk))))
                .collect();
            Either::Right(StreamBody::new(stream::iter(chunks)))
        } else {
            Either::Left(Full::new(Bytes::from(body)))
        };
        let mut response = Response::new(body);
        *response.status_mut() = status;
        let fields = response.headers_mut();
        fields.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Ok(request_id) = HeaderValue::from_str(request_id) {
            fields.insert("x-request-id", request_id);
        }
        for (name, value) in headers {
            fields.insert(name, value);
        }
        response
    }
}

/// Why a request is rejected, and by which component.
#[derive(Debug)]
pub(super) enum Refusal {
    /// Codes of devg-apisign, api-sign-errorcode.
    Gateway {
        status: StatusCode,
        code: &'static str,
        message: String,
        headers: Vec<(HeaderName, HeaderValue)>,
    },
    /// `SVCSTG.SWR.` and seven digits, of which the first three are the status.
    Service {
        status: StatusCode,
        code: &'static str,
        message: String,
    },
    Iam {
        status: StatusCode,
        message: &'static str,
    },
}

impl Refusal {
    pub(super) fn unknown_route() -> Refusal {
        Refusal::Gateway {
            status: StatusCode::NOT_FOUND,
            code: "APIGW.0101",
            message: "The API does not exist or has not been published in the environment".into(),
            headers: Vec::new(),
        }
    }

    pub(super) fn unauthenticated(reason: &str) -> Refusal {
        Refusal::Gateway {
            status: StatusCode::UNAUTHORIZED,
            code: "APIGW.0301",
            message: format!("Incorrect IAM authentication information: {reason}"),
            headers: Vec::new(),
        }
    }

    pub(super) fn throttled(
        limit: Option<u32>,
        retry_after: Option<std::time::Duration>,
    ) -> Refusal {
        let retry_after =
            retry_after.and_then(|delay| HeaderValue::try_from(delay.as_secs().to_string()).ok());
        let policy = limit.map_or_else(String::new, |limit| {
            format!(": policy user over ratelimit,limit:{limit},time:1 second")
        });
        Refusal::Gateway {
            status: StatusCode::TOO_MANY_REQUESTS,
            code: "APIGW.0308",
            message: format!("The throttling threshold has been reached{policy}"),
            headers: retry_after
                .map(|value| (hyper::header::RETRY_AFTER, value))
                .into_iter()
                .collect(),
        }
    }

    pub(super) fn bad_parameter(message: impl Into<String>) -> Refusal {
        Refusal::Service {
            status: StatusCode::BAD_REQUEST,
            code: "SVCSTG.SWR.4000014",
            message: message.into(),
        }
    }

    pub(super) fn not_found(message: impl Into<String>) -> Refusal {
        Refusal::Service {
            status: StatusCode::NOT_FOUND,
            code: "SVCSTG.SWR.4040010",
            message: message.into(),
        }
    }

    pub(super) fn into_answer(self, request_id: &str) -> Answer {
        let (status, body, headers): (StatusCode, Value, _) = match self {
            Refusal::Gateway {
                status,
                code,
                message,
                headers,
            } => (
                status,
                json!({"error_msg": message, "error_code": code, "request_id": request_id}),
                headers,
            ),
            Refusal::Service {
                status,
                code,
                message,
            } => (
                status,
                json!({"error_code": code, "error_msg": message}),
                Vec::new(),
            ),
            Refusal::Iam { status, message } => (
                status,
                json!({"error": {
                    "code": status.as_u16(),
                    "message": message,
                    "title": status.canonical_reason(),
                }}),
                Vec::new(),
            ),
        };
        Answer {
            headers,
            ..Answer::json(status, &body)
        }
    }
}
