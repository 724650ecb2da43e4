//! Answers and refusals, in the shapes of gateway, service and IAM.

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};
use serde::Serialize;
use serde_json::{Value, json};

/// A response before it gets its request id.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) body: Vec<u8>,
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
}

impl Answer {
    pub(super) fn json(status: StatusCode, body: &impl Serialize) -> Answer {
        match serde_json::to_vec(body) {
            Ok(body) => Answer {
                status,
                body,
                headers: Vec::new(),
            },
            Err(error) => Answer {
                status: StatusCode::INTERNAL_SERVER_ERROR,
                body: error.to_string().into_bytes(),
                headers: Vec::new(),
            },
        }
    }

    pub(super) fn text(status: u16, body: String) -> Answer {
        Answer {
            status: StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
            body: body.into_bytes(),
            headers: Vec::new(),
        }
    }

    pub(super) fn into_response(self, request_id: &str) -> Response<Full<Bytes>> {
        let Answer {
            status,
            body,
            headers,
        } = self;
        let mut response = Response::new(Full::new(Bytes::from(body)));
        *response.status_mut() = status;
        let fields = response.headers_mut();
        fields.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Ok(request_id) = HeaderValue::from_str(request_id) {
            fields.insert("x-request-id", request_id);
        }
        fields.extend(headers);
        response
    }
}

/// Why a request is not answered, by whom.
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
