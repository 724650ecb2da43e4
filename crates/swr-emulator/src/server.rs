//! The running emulator: sockets, the order of checks, and
//! what tests can observe and change meanwhile.

use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use chrono::{DateTime, Utc};
use http_body_util::{BodyExt, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT_ENCODING, DATE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use secrecy::SecretString;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use super::answer::{Answer, Body, Refusal};
use super::api::{self, Route};
use super::auth::Gatekeeper;
use super::change::{Changes, Event};
use super::fault::{Disturbance, ErrorBody, Fault, FaultPlan, Faults};
use super::line::{Cut, Line, Manner, Place, Scissors};
use super::load::{Bucket, Service};
use super::requests::{Arrived, RequestCounts, RequestKind};
use super::settings::{EmulatorSettings, Instance, MetadataSettings, Throttle};
use super::world::World;

/// The gateway's maximum body size (devg-apisign).
const LARGEST_BODY_BYTES: usize = 12 * 1024 * 1024;

/// An emulated SWR instance that serves HTTP until it is stopped or dropped.
#[derive(Debug)]
pub struct Emulator {
    state: Arc<State>,
    address: SocketAddr,
    serving: JoinHandle<()>,
}

impl Emulator {
    /// Starts listening and serving.
    pub async fn start(settings: EmulatorSettings, world: World) -> std::io::Result<Emulator> {
        let listener = TcpListener::bind(settings.listen).await?;
        let address = listener.local_addr()?;
        let state = Arc::new(State {
            service: Mutex::new(Service::new(settings.load, settings.latency)),
            throttle: Mutex::new(
                settings
                    .throttle
                    .map(|throttle| Bucket::full(throttle, settings.load)),
            ),
            instances: RwLock::new(vec![(settings.instance(), world)]),
            metadata: Mutex::new(settings.metadata.clone()),
            settings,
            counts: Mutex::default(),
            counts_by_instance: Mutex::default(),
            gatekeeper: Mutex::default(),
            faults: Mutex::default(),
            lost: Mutex::default(),
            requests_by_digest: Mutex::default(),
            last_request: AtomicU64::new(0),
            rounds: AtomicU32::new(0),
        });
        let serving = tokio::spawn(serve(listener, Arc::clone(&state)));
        Ok(Emulator {
            state,
            address,
            serving,
        })
    }

    /// Such as `http://127.0.0.1:8085`; serves SWR, IAM and the machine's own services.
    pub fn endpoint(&self) -> String {
        let mut address = self.address;
        if address.ip().is_unspecified() {
            address.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
        }
        format!("http://{address}")
    }

    /// The settings.
    pub fn settings(&self) -> &EmulatorSettings {
        &self.state.settings
    }

    /// Requests since the start or the last reset.
    pub fn requests(&self) -> RequestCounts {
        self.state.request_counts()
    }

    /// How often the build history of each digest was requested since the start or the last
    /// reset, with or without a response.
    pub fn history_requests(&self) -> HashMap<String, u64> {
        lock(&self.state.requests_by_digest).clone()
    }

    /// Requests to one instance since the start or the last reset.
    pub fn requests_of(&self, instance_id: &str) -> RequestCounts {
        let counts = lock(&self.state.counts_by_instance);
        counts.get(instance_id).cloned().unwrap_or_default()
    }

    /// Resets the counts.
    pub fn reset_requests(&self) {
        lock(&self.state.counts).reset();
        lock(&self.state.counts_by_instance)
            .values_mut()
            .for_each(RequestCounts::reset);
        lock(&self.state.requests_by_digest).clear();
        lock(&self.state.faults).met.clear();
        lock(&self.state.gatekeeper).failed_checks = 0;
    }

    /// Adds an instance to the project.
    pub fn add_instance(&self, instance: Instance, world: World) {
        self.state.instances_mut().push((instance, world));
    }

    /// Reads or changes the first instance's registry; no request is handled meanwhile.
    pub fn with_world<T>(&self, change: impl FnOnce(&mut World) -> T) -> T {
        self.with_instance(&self.state.settings.instance_id, |_, world| change(world))
    }

    /// Reads or changes an instance's registry; no request is handled meanwhile.
    ///
    /// # Panics
    ///
    /// If there is no such instance.
    #[expect(clippy::panic, reason = "a mistake in the calling test")]
    pub fn with_instance<T>(
        &self,
        instance_id: &str,
        change: impl FnOnce(&mut Instance, &mut World) -> T,
    ) -> T {
        let mut instances = self.state.instances_mut();
        let mut found = instances.iter_mut();
        match found.find(|(instance, _)| instance.id == instance_id) {
            Some((instance, world)) => change(instance, world),
            None => panic!("the emulator has no instance {instance_id}"),
        }
    }

    /// Sets the latency from now on.
    pub fn set_latency(&self, latency: Duration) {
        lock(&self.state.service).latency = latency;
    }

    /// Sets the throttle from now on.
    pub fn set_throttle(&self, throttle: Option<Throttle>) {
        let load = self.state.settings.load;
        *lock(&self.state.throttle) = throttle.map(|throttle| Bucket::full(throttle, load));
    }

    /// Accepts this secret key from now on, and no other.
    pub fn set_secret_key(&self, secret_key: impl Into<SecretString>) {
        lock(&self.state.gatekeeper).secret_key = Some(secret_key.into());
    }

    /// Sets the behaviour of the machine's own services from now on.
    pub fn set_metadata(&self, settings: MetadataSettings) {
        *lock(&self.state.metadata) = settings;
    }

    /// Expires all temporary keys.
    pub fn expire_keys(&self) {
        lock(&self.state.gatekeeper).machine.expire_keys();
    }

    /// Answers the next request of this kind with this status and body. Calls queue up.
    pub fn fail_next(&self, kind: RequestKind, status: u16, body: impl Into<String>) {
        let body = body.into();
        self.disturb_next(kind, Fault::Answer { status, body });
    }

    /// Never answers the next request of this kind.
    pub fn hang_next(&self, kind: RequestKind) {
        self.disturb_next(kind, Fault::Hang);
    }

    /// Injects this fault into the next request of this kind. Calls queue up.
    pub fn disturb_next(&self, kind: RequestKind, fault: Fault) {
        lock(&self.state.faults).queue(kind, fault);
    }

    /// Discards the queued faults.
    pub fn clear_faults(&self) {
        lock(&self.state.faults).clear();
    }

    /// The queued faults.
    pub fn queued_faults(&self) -> usize {
        lock(&self.state.faults).queued()
    }

    /// Number of requests with each fault since the start or the last reset of the counts.
    pub fn met_faults(&self) -> HashMap<Fault, u64> {
        lock(&self.state.faults).met.clone()
    }

    /// Injects the faults of this plan from now on, from its beginning.
    pub fn set_faults(&self, plan: Option<FaultPlan>) {
        lock(&self.state.faults).follow(plan);
    }

    /// Stops listening and closes all connections.
    pub async fn stop(mut self) {
        self.serving.abort();
        // The task was cancelled on purpose, so its result is not needed.
        let _ = (&mut self.serving).await;
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

#[derive(Debug)]
struct State {
    settings: EmulatorSettings,
    /// The first is the one in the settings.
    instances: RwLock<Vec<(Instance, World)>>,
    counts: Mutex<RequestCounts>,
    counts_by_instance: Mutex<HashMap<String, RequestCounts>>,
    gatekeeper: Mutex<Gatekeeper>,
    faults: Mutex<Faults>,
    /// The artifacts that a page has lacked.
    lost: Mutex<HashSet<i64>>,
    requests_by_digest: Mutex<HashMap<String, u64>>,
    service: Mutex<Service>,
    throttle: Mutex<Option<Bucket>>,
    metadata: Mutex<MetadataSettings>,
    last_request: AtomicU64,
    rounds: AtomicU32,
}

/// Accepts connections. Their tasks belong to this one and end with it.
async fn serve(listener: TcpListener, state: Arc<State>) {
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, _)) => {
                connections.spawn(converse(stream, Arc::clone(&state)));
            }
            // Probably out of file descriptors: some connection will end.
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

async fn converse(stream: TcpStream, state: Arc<State>) {
    // Otherwise small responses wait for the client's delayed acknowledgement.
    let _ = stream.set_nodelay(true);
    let scissors = Scissors::default();
    let line = Line::new(stream, scissors.clone());
    let service = service_fn(|request| {
        let (state, scissors) = (Arc::clone(&state), scissors.clone());
        async move { Ok::<_, Infallible>(state.respond(request, &scissors).await) }
    });
    // A broken connection is handled by the client.
    let _ = http1::Builder::new()
        .serve_connection(TokioIo::new(line), service)
        .await;
}

impl State {
    async fn respond(&self, request: Request<Incoming>, scissors: &Scissors) -> Response<Body> {
        let number = self.last_request.fetch_add(1, Ordering::Relaxed) + 1;
        let request_id = format!("{number:032x}");
        let (parts, body) = request.into_parts();
        if parts.uri.path().starts_with("/_emulator/") {
            return self
                .control(&parts.method, parts.uri.path())
                .into_response(&request_id);
        }
        let route = Route::of(&parts.method, parts.uri.path());
        let kind = route.as_ref().map_or(RequestKind::Unknown, Route::kind);
        let instance = route.as_ref().and_then(Route::instance);
        let _present = Present::new(self, kind, instance);
        if let Some(Route::BuildHistory(route)) = &route {
            let mut requests = lock(&self.requests_by_digest);
            *requests.entry(route.reference.clone()).or_default() += 1;
        }

        let body = match Limited::new(body, LARGEST_BODY_BYTES).collect().await {
            Ok(body) => body.to_bytes(),
            Err(_) => Bytes::new(),
        };
        let arrived = Arrived {
            method: parts.method.as_str(),
            path: parts.uri.path(),
            query: parts.uri.query().unwrap_or_default(),
            headers: &parts.headers,
            body: &body,
        };
        let fault = lock(&self.faults).next(kind);
        if let Some(fault) = &fault {
            self.apply_fault(fault, instance).await;
        }
        let answered = fault.as_ref().and_then(instead);
        let admitted = match answered {
            None => self.admit(route.as_ref(), &arrived),
            Some(_) => Ok(()),
        };
        // The gateway rejects immediately; the latency is that of the service behind it.
        if admitted.is_ok() {
            let delay = lock(&self.service).delay(number);
            if !delay.is_zero() {
                tokio::time::sleep(delay).await;
            }
        }
        let mut answer = answered
            .unwrap_or_else(|| {
                admitted.and_then(|()| self.answer(route.as_ref(), &arrived, fault.as_ref()))
            })
            .unwrap_or_else(|refusal| refusal.into_answer(&request_id));
        if let Some(fault) = &fault {
            let accepted = parts.headers.get(ACCEPT_ENCODING);
            let accepts_gzip = accepted
                .and_then(|value| value.to_str().ok())
                .is_some_and(|value| value.contains("gzip"));
            answer.spoil(fault, accepts_gzip);
        }
        match fault.as_ref().and_then(cut) {
            Some(cut) => scissors.cut_next(cut),
            None => self.count(instance, |counts| {
                counts.answer(kind, answer.status.as_u16());
            }),
        }
        let mut response = answer.into_response(&request_id);
        response
            .headers_mut()
            .insert(DATE, http_date(self.settings.clock.now()));
        response
    }

    /// Applies a fault before the request is handled.
    async fn apply_fault(&self, fault: &Fault, instance_id: Option<&str>) {
        let event = match fault {
            Fault::Hang => return std::future::pending().await,
            Fault::Late(delay) => return tokio::time::sleep(*delay).await,
            Fault::ExpiredTokens => return lock(&self.gatekeeper).expire_tokens(),
            Fault::ArtifactDeleted => Event::ArtifactDeleted,
            Fault::ArtifactPushed => Event::ArtifactPushed,
            Fault::RepositoryDeleted => Event::RepositoryDeleted,
            Fault::RepositoryCreated => Event::RepositoryCreated,
            Fault::TagMoved => Event::TagMoved,
            _ => return,
        };
        for (instance, world) in &mut *self.instances_mut() {
            if instance_id.is_none_or(|id| id == instance.id) {
                world.happen(event);
            }
        }
    }

    fn instances(&self) -> RwLockReadGuard<'_, Vec<(Instance, World)>> {
        self.instances
            .read()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn instances_mut(&self) -> RwLockWriteGuard<'_, Vec<(Instance, World)>> {
        self.instances
            .write()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts for all, and for the instance.
    fn count(&self, instance_id: Option<&str>, change: impl Fn(&mut RequestCounts)) {
        change(&mut lock(&self.counts));
        if let Some(id) = instance_id {
            let mut counts = lock(&self.counts_by_instance);
            change(counts.entry(id.to_owned()).or_default());
        }
    }

    /// The gateway's order: route, authentication, throttle.
    fn admit(&self, route: Option<&Route>, request: &Arrived<'_>) -> Result<(), Refusal> {
        let route = self.existing(route)?;
        if matches!(route, Route::Token | Route::Metadata(_)) {
            return Ok(());
        }
        lock(&self.gatekeeper).check(&self.settings, request)?;
        match &mut *lock(&self.throttle) {
            Some(bucket) => bucket.take(),
            None => Ok(()),
        }
    }

    /// The service, or IAM.
    fn answer(
        &self,
        route: Option<&Route>,
        request: &Arrived<'_>,
        fault: Option<&Fault>,
    ) -> Result<Answer, Refusal> {
        let route = self.existing(route)?;
        if *route == Route::Token {
            return lock(&self.gatekeeper).issue_token(&self.settings, request.body);
        }
        if let Route::Metadata(route) = route {
            let settings = lock(&self.metadata).clone();
            let now = self.settings.clock.now();
            let machine = &mut lock(&self.gatekeeper).machine;
            return Ok(machine.answer(*route, &settings, request, now));
        }
        let instances = self.instances();
        let disturbance = Disturbance {
            fault,
            lost: &self.lost,
        };
        api::answer(
            route,
            request.query,
            &self.settings,
            &instances,
            disturbance,
        )
    }

    fn existing<'a>(&self, route: Option<&'a Route>) -> Result<&'a Route, Refusal> {
        let route = route.ok_or_else(Refusal::unknown_route)?;
        let instances = self.instances();
        let asked = instances
            .iter()
            .find(|(instance, _)| Some(instance.id.as_str()) == route.instance());
        match asked {
            Some((instance, _)) if !route.exists_in(&instance.version) => {
                Err(Refusal::unknown_route())
            }
            _ => Ok(route),
        }
    }

    /// Endpoints of the emulator itself, for scripts.
    fn control(&self, method: &Method, path: &str) -> Answer {
        match (method, path) {
            (&Method::GET, "/_emulator/requests") => {
                Answer::json(StatusCode::OK, &self.request_counts())
            }
            (&Method::POST, "/_emulator/changes") => {
                let round = self.rounds.fetch_add(1, Ordering::Relaxed) + 1;
                let mut changes = Changes::default();
                for (_, world) in &mut *self.instances_mut() {
                    // Changes are dated now, after everything that a client has seen so far.
                    let now = self.settings.clock.now().max(world.now());
                    world.set_now(now);
                    changes += world.evolve(round);
                }
                Answer::json(StatusCode::OK, &changes)
            }
            _ => Answer::text(
                404,
                "GET /_emulator/requests or POST /_emulator/changes\n".into(),
            ),
        }
    }

    fn request_counts(&self) -> RequestCounts {
        let mut counts = lock(&self.counts).clone();
        counts.failed_signatures = lock(&self.gatekeeper).failed_checks;
        counts
    }
}

/// The response that a fault returns instead of the correct one.
fn instead(fault: &Fault) -> Option<Result<Answer, Refusal>> {
    match fault {
        Fault::Answer { status, body } => Some(Ok(Answer::text(*status, body.clone()))),
        Fault::Throttled { retry_after } => Some(Err(Refusal::throttled(None, *retry_after))),
        Fault::ServerError { status, body } => Some(Ok(Answer::server_error(*status, *body))),
        Fault::ErrorDocument => Some(Ok(Answer {
            status: StatusCode::OK,
            ..Answer::server_error(500, ErrorBody::Json)
        })),
        Fault::WebPage => Some(Ok(Answer::web_page(StatusCode::OK, "Please log in"))),
        Fault::EmptyBody => Some(Ok(Answer::text(200, String::new()))),
        _ => None,
    }
}

/// Where a fault cuts the connection.
fn cut(fault: &Fault) -> Option<Cut> {
    let (place, manner) = match fault {
        Fault::ResetBeforeHeaders => (Place::Start, Manner::Reset),
        Fault::ResetWithinHeaders => (Place::Headers, Manner::Reset),
        Fault::ResetWithinBody => (Place::Body, Manner::Reset),
        Fault::ShortBody | Fault::UnfinishedChunks => (Place::Body, Manner::Close),
        _ => return None,
    };
    Some(Cut { place, manner })
}

/// Counts a request as in progress until it is answered, or cancelled by the client.
struct Present<'a> {
    state: &'a State,
    instance_id: Option<&'a str>,
}

impl<'a> Present<'a> {
    fn new(state: &'a State, kind: RequestKind, instance_id: Option<&'a str>) -> Present<'a> {
        state.count(instance_id, |counts| counts.arrive(kind));
        Present { state, instance_id }
    }
}

impl Drop for Present<'_> {
    fn drop(&mut self) {
        self.state.count(self.instance_id, RequestCounts::leave);
    }
}

/// As in RFC 9110, 5.6.7, with the emulator's clock.
fn http_date(now: DateTime<Utc>) -> HeaderValue {
    let date = now.format("%a, %d %b %Y %H:%M:%S GMT").to_string();
    HeaderValue::from_str(&date).unwrap_or(HeaderValue::from_static(""))
}

/// A panic while a lock was held comes from the test and is already reported.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
