//! One loop a target: started when it is discovered, ended when it is gone.

use crate::{
    Health, Target, Targets,
    discover::Receiver,
    fetch::Fetcher,
    page::{Pages, Stored},
};
use std::{
    collections::BTreeMap,
    hash::{Hash, Hasher},
    sync::Arc,
    time::{Duration, SystemTime},
};
use tokio::{
    sync::Semaphore,
    time::{Instant, MissedTickBehavior, interval_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use weir_series::Append;

/// How targets are scraped.
#[derive(Clone, Debug)]
pub struct ScrapeConfig {
    /// Time between two scrapes of a target.
    pub interval: Duration,
    /// Time that a scrape may take; at most the interval.
    pub timeout: Duration,
    /// Bytes that a page may have.
    pub max_bytes: usize,
    /// Samples that a page may have.
    pub max_samples: usize,
}

impl Default for ScrapeConfig {
    fn default() -> Self {
        ScrapeConfig {
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(4),
            max_bytes: 16 << 20,
            max_samples: 200_000,
        }
    }
}

/// Scrapes under way at the same time; further ones wait. Bounds memory and sockets, not targets.
const MAX_CONCURRENT: usize = 64;
/// A target that goes may still answer once: its last figures would be lost otherwise.
const LAST_SCRAPE: Duration = Duration::from_secs(1);
/// A scrape this close to its beat counts as on it: even distances compress best.
const ON_BEAT_MS: i64 = 20;
/// Idle connections live this many intervals.
const IDLE_INTERVALS: u32 = 3;

/// Scrapes what is discovered until `shutdown`.
pub async fn run(
    config: ScrapeConfig,
    mut discovered: Receiver,
    store: Arc<dyn Append>,
    targets: Targets,
    shutdown: CancellationToken,
) {
    let interval = config.interval.max(Duration::from_millis(100));
    let timeout = config.timeout.min(interval);
    let context = Arc::new(Context {
        fetcher: Fetcher::new(timeout, interval * IDLE_INTERVALS, config.max_bytes),
        slots: Semaphore::new(MAX_CONCURRENT),
        interval,
        max_samples: config.max_samples,
        store,
        targets,
    });
    let loops = TaskTracker::new();
    let mut running: BTreeMap<Target, CancellationToken> = BTreeMap::new();
    loop {
        let wanted = discovered.borrow_and_update().clone();
        running.retain(|target, stop| {
            let keep = wanted.contains(target);
            if !keep {
                stop.cancel();
            }
            keep
        });
        for target in wanted.iter() {
            if !running.contains_key(target) {
                let stop = shutdown.child_token();
                running.insert(target.clone(), stop.clone());
                context.targets.insert(target);
                loops.spawn(scrape_loop(context.clone(), target.clone(), stop, shutdown.clone()));
            }
        }
        tokio::select! {
            () = shutdown.cancelled() => break,
            changed = discovered.changed() => if changed.is_err() {
                // Whoever discovers has ended; what is known goes on.
                shutdown.cancelled().await;
                break;
            }
        }
    }
    loops.close();
    loops.wait().await;
}

struct Context {
    fetcher: Fetcher,
    slots: Semaphore,
    interval: Duration,
    max_samples: usize,
    store: Arc<dyn Append>,
    targets: Targets,
}

/// The first scrape at once, the others on the target's own beat within the interval.
async fn scrape_loop(context: Arc<Context>, target: Target, stop: CancellationToken, shutdown: CancellationToken) {
    let mut pages = Pages::new(&target, context.max_samples);
    let interval = context.interval;
    let first_beat = Instant::now() + phase(&target, interval);
    let mut beats = interval_at(first_beat, interval);
    beats.set_missed_tick_behavior(MissedTickBehavior::Skip);
    // Wall time of the first beat: all others lie whole intervals after it.
    let origin_ms = now_ms() + millis(first_beat.saturating_duration_since(Instant::now()));

    let mut last_ms = 0;
    let mut first = true;
    loop {
        if !first {
            tokio::select! {
                () = stop.cancelled() => break,
                _ = beats.tick() => {}
            }
        }
        first = false;
        let scrape = scrape(&context, &target, &mut pages, origin_ms, last_ms);
        last_ms = tokio::select! {
            () = stop.cancelled() => break,
            at = scrape => at,
        };
    }
    if !shutdown.is_cancelled() {
        // The whole scraper goes on: end the target's series, which else would live until the look-back is over.
        let now = now_ms().max(last_ms + 1);
        if let Ok(page) = context.fetcher.get_within(&target, LAST_SCRAPE).await {
            // Its figures are kept even if the page is not what it should be: nothing depends on it any more.
            let _ = pages.store(&page, now, context.store.as_ref());
        }
        pages.end(now_ms().max(now + 1), context.store.as_ref());
        context.targets.remove(&target);
    }
}

/// One scrape; returns the time under which it was stored.
async fn scrape(context: &Context, target: &Target, pages: &mut Pages, origin_ms: i64, last_ms: i64) -> i64 {
    let Ok(_slot) = context.slots.acquire().await else {
        return last_ms;
    };
    let started = Instant::now();
    let at_ms = on_beat(now_ms(), origin_ms, millis(context.interval));
    if at_ms <= last_ms {
        // The clock went back: every sample would be refused. Wait until it has caught up.
        return last_ms;
    }
    let store = context.store.as_ref();
    let outcome = match context.fetcher.get(target).await {
        Ok(page) => pages.store(&page, at_ms, store).map_err(|e| e.to_string()),
        Err(error) => Err(error.to_string()),
    };
    let duration_s = started.elapsed().as_secs_f64();
    let samples = outcome.as_ref().map_or(0, |stored| stored.samples);
    if outcome.is_err() {
        pages.fail(at_ms, store);
    }
    pages.report(at_ms, outcome.is_ok(), duration_s, samples, store);
    context.targets.update(target, |status| {
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
            Ok(stored) => {
                status.last_error.clear();
                status.last_warning = warning(&stored);
            }
            Err(error) => status.last_error = error,
        }
    });
    at_ms
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
    target.url().hash(&mut hasher);
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
