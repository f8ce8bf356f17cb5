//! One loop a target: started when it is discovered, ended when it is gone.

use crate::{
    Health, Target, Targets,
    config::Job,
    discover::Receiver,
    fetch::{Fetcher, Page},
    page::{PageError, Pages, Report, Stored},
    target::Identity,
};
use std::{
    collections::{BTreeMap, btree_map::Entry},
    hash::{Hash, Hasher},
    sync::Arc,
    time::{Duration, SystemTime},
};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use weir_series::Append;

/// A target that goes may still answer once: its last figures would be lost otherwise.
const LAST_SCRAPE: Duration = Duration::from_secs(1);
/// A scrape this close to its beat counts as on it: even distances compress best.
const ON_BEAT_MS: i64 = 20;
/// Pages above so many bytes are read on a thread of their own, so that the others' scrapes go on meanwhile.
const LARGE_PAGE: usize = 4 << 20;
/// No job scrapes more often.
const INTERVAL_MIN: Duration = Duration::from_millis(100);

/// Scrapes what is discovered until `stop`. Where `stop` comes without `shutdown`, series that end are marked if `marks` says so.
pub(crate) async fn run(
    job: Arc<Job>,
    mut discovered: Receiver,
    store: Arc<dyn Append>,
    targets: Targets,
    stop: CancellationToken,
    marks: Arc<dyn Fn() -> bool + Send + Sync>,
) {
    let context = Arc::new(Context {
        job,
        store,
        targets,
        marks,
    });
    let pool = context.job.name.clone();
    context.targets.add_pool(&pool);
    let loops = TaskTracker::new();
    let mut running: BTreeMap<Identity, Loop> = BTreeMap::new();
    // Of targets that are gone: the last scrape and the marks take a moment, in which one may come back.
    let mut ending: BTreeMap<Identity, JoinHandle<()>> = BTreeMap::new();
    loop {
        let wanted = discovered.borrow_and_update().clone();
        let wanted: BTreeMap<Identity, &Target> = wanted.iter().map(|t| (t.identity(), t)).collect();
        ending.retain(|_, task| !task.is_finished());
        let unwanted = running.extract_if(.., |identity, _| !wanted.contains_key(identity));
        ending.extend(unwanted.map(|(identity, over)| {
            over.gone.cancel();
            (identity, over.task)
        }));
        for (identity, target) in wanted {
            let (interval, timeout) = context.times(target);
            context.targets.insert(&pool, target, interval, timeout);
            let before = ending.remove(&identity);
            if let Entry::Vacant(vacant) = running.entry(identity) {
                let gone = CancellationToken::new();
                let (context, pool, target) = (context.clone(), pool.clone(), target.clone());
                let (ended, stop) = (gone.clone(), stop.clone());
                let task = loops.spawn(async move {
                    if let Some(before) = before {
                        // Its end takes the target off the list and marks its series, both of which are ours from now on.
                        let _ = before.await;
                        context.targets.insert(&pool, &target, interval, timeout);
                    }
                    scrape_loop(context, target, ended, stop).await;
                });
                vacant.insert(Loop { gone, task });
            }
        }
        tokio::select! {
            () = stop.cancelled() => break,
            changed = discovered.changed() => if changed.is_err() {
                // Whoever discovers has ended; what is known goes on.
                stop.cancelled().await;
                break;
            }
        }
    }
    loops.close();
    loops.wait().await;
}

/// Scrapes what is discovered as one job, until `shutdown`.
pub async fn run_job(
    job: Job,
    discovered: Receiver,
    store: Arc<dyn Append>,
    targets: Targets,
    shutdown: CancellationToken,
) {
    run(Arc::new(job), discovered, store, targets, shutdown, Arc::new(|| false)).await;
}

/// A target's loop.
struct Loop {
    gone: CancellationToken,
    task: JoinHandle<()>,
}

struct Context {
    job: Arc<Job>,
    store: Arc<dyn Append>,
    targets: Targets,
    /// Whether the series of targets end with the job: not when another version of it, or of the whole process, follows.
    marks: Arc<dyn Fn() -> bool + Send + Sync>,
}

impl Context {
    fn times(&self, target: &Target) -> (Duration, Duration) {
        let interval = target.interval.unwrap_or(self.job.interval).max(INTERVAL_MIN);
        (interval, target.timeout.unwrap_or(self.job.timeout).min(interval))
    }
}

/// A job that wants exact counters scrapes at once for the first time, others on the target's beat within the interval.
async fn scrape_loop(context: Arc<Context>, target: Target, gone: CancellationToken, stop: CancellationToken) {
    let (interval, timeout) = context.times(&target);
    let first_beat = Instant::now() + phase(&target, interval);
    let mut beats = interval_at(first_beat, interval);
    beats.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut scraper = Scraper {
        fetcher: Fetcher::of_job(&context.job),
        pages: Some(Pages::new(&target, context.job.clone())),
        storing: None,
        // Wall time of the first beat: all others lie whole intervals after it.
        origin_ms: now_ms() + millis(first_beat.saturating_duration_since(Instant::now())),
        interval,
        timeout,
        last_ms: 0,
        context,
        target,
    };
    let mut at_once = scraper.context.job.exact;
    loop {
        tokio::select! {
            () = gone.cancelled() => break,
            () = stop.cancelled() => break,
            () = async { if !std::mem::take(&mut at_once) { beats.tick().await; } } => {}
        }
        tokio::select! {
            () = gone.cancelled() => break,
            () = stop.cancelled() => break,
            () = scraper.scrape() => {}
        }
    }
    // A job that goes takes its targets off the list as a whole.
    if gone.is_cancelled() {
        scraper.end().await;
        scraper
            .context
            .targets
            .remove(&scraper.context.job.name, &scraper.target);
    } else if (scraper.context.marks)() {
        scraper.end().await;
    }
}

/// What a loop works with.
struct Scraper {
    context: Arc<Context>,
    target: Target,
    fetcher: Fetcher,
    /// None while a thread of its own has it.
    pages: Option<Pages>,
    /// That thread, until it has given them back: a scrape that is given up leaves it at work.
    storing: Option<JoinHandle<(Pages, Result<Stored, PageError>)>>,
    origin_ms: i64,
    interval: Duration,
    timeout: Duration,
    /// Time under which the last scrape was stored.
    last_ms: i64,
}

/// Of a scrape that stored something.
struct Done {
    stored: Stored,
    body_bytes: usize,
}

impl Scraper {
    async fn scrape(&mut self) {
        let started = Instant::now();
        let at_ms = on_beat(now_ms(), self.origin_ms, millis(self.interval));
        if at_ms <= self.last_ms {
            // The clock went back: every sample would be refused. Wait until it has caught up.
            return;
        }
        self.last_ms = at_ms;
        let outcome = match self.fetcher.page(&self.target.url, self.timeout).await {
            Ok(page) => self.store(page, at_ms).await.map_err(|e| e.to_string()),
            Err(error) => Err(error.to_string()),
        };
        let duration_s = started.elapsed().as_secs_f64();
        let store = self.context.store.as_ref();
        let pages = self
            .pages
            .get_or_insert_with(|| Pages::new(&self.target, self.context.job.clone()));
        if outcome.is_err() {
            pages.fail(at_ms, store);
        }
        let report = Report {
            up: outcome.is_ok(),
            duration_s,
            body_bytes: outcome.as_ref().map_or(0, |done| done.body_bytes),
            stored: outcome.as_ref().map(|done| done.stored).unwrap_or_default(),
        };
        pages.report(at_ms, &report, store);
        self.show(at_ms, duration_s, outcome);
    }

    async fn store(&mut self, page: Page, at_ms: i64) -> Result<Done, PageError> {
        let body_bytes = page.bytes.len();
        let store = self.context.store.clone();
        let mut pages = match self.pages.take() {
            Some(pages) => pages,
            None => Pages::new(&self.target, self.context.job.clone()),
        };
        let stored = if body_bytes < LARGE_PAGE {
            let stored = pages.store(&page.bytes, page.format, at_ms, store.as_ref());
            self.pages = Some(pages);
            stored
        } else {
            let work = move || {
                let stored = pages.store(&page.bytes, page.format, at_ms, store.as_ref());
                (pages, stored)
            };
            self.storing = Some(tokio::task::spawn_blocking(work));
            // None where the runtime is ending.
            self.stored().await.unwrap_or_else(|| Ok(Stored::default()))
        };
        stored.map(|stored| Done { stored, body_bytes })
    }

    /// What the thread that stores a large page says, if there is one.
    async fn stored(&mut self) -> Option<Result<Stored, PageError>> {
        let ended = self.storing.as_mut()?.await;
        self.storing = None;
        let (pages, stored) = ended.ok()?;
        self.pages = Some(pages);
        Some(stored)
    }

    fn show(&self, at_ms: i64, duration_s: f64, outcome: Result<Done, String>) {
        self.context
            .targets
            .update(&self.context.job.name, &self.target, |status| {
                let samples = outcome.as_ref().map_or(0, |done| done.stored.samples);
                (status.last_scrape_ms, status.last_duration_s, status.last_samples) = (at_ms, duration_s, samples);
                let health = if outcome.is_ok() { Health::Up } else { Health::Down };
                if status.health != health {
                    tracing::debug!(
                        url = status.url,
                        ?health,
                        error = outcome.as_ref().err(),
                        "target changed"
                    );
                }
                status.health = health;
                match outcome {
                    Ok(done) => {
                        status.last_error.clear();
                        status.last_warning = warning(&done.stored);
                    }
                    Err(error) => status.last_error = error,
                }
            });
    }

    /// Ends the target's series, which else would live until the look-back is over.
    async fn end(&mut self) {
        // What a scrape that was given up still stores comes before the end, and has the pages that end.
        let _ = self.stored().await;
        let now = now_ms().max(self.last_ms + 1);
        if self.context.job.exact
            && let Ok(page) = self.fetcher.page(&self.target.url, LAST_SCRAPE).await
        {
            // Its figures are kept even if the page is not what it should be: nothing depends on it any more.
            let _ = self.store(page, now).await;
        }
        if let Some(pages) = &mut self.pages {
            pages.end(now_ms().max(now + 1), self.context.store.as_ref());
        }
    }
}

fn warning(stored: &Stored) -> String {
    match stored.first_refusal {
        None => String::new(),
        Some(why) => format!(
            "{} of {} samples were not stored: {why}",
            stored.refused, stored.samples
        ),
    }
}

/// Where in the interval a target's beat lies: spread by its name, and the same after a restart of the scraper.
fn phase(target: &Target, interval: Duration) -> Duration {
    let mut hasher = std::hash::DefaultHasher::new();
    target.url.hash(&mut hasher);
    let wanted = hasher.finish() % interval.as_millis().max(1) as u64;
    let now = now_ms().unsigned_abs() % interval.as_millis().max(1) as u64;
    let wait = (wanted + interval.as_millis() as u64 - now) % interval.as_millis().max(1) as u64;
    Duration::from_millis(wait)
}

fn on_beat(now_ms: i64, origin_ms: i64, interval_ms: i64) -> i64 {
    let late = (now_ms - origin_ms).rem_euclid(interval_ms);
    match late {
        late if late <= ON_BEAT_MS => now_ms - late,
        late if interval_ms - late <= ON_BEAT_MS => now_ms + interval_ms - late,
        _ => now_ms,
    }
}

fn now_ms() -> i64 {
    millis(
        SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default(),
    )
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
