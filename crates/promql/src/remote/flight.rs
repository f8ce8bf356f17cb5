//! Equal questions are asked once: whoever comes while one is under way, or shortly after, gets its answer.

use crate::Error;
use bytes::Bytes;
use std::{
    collections::HashMap,
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::sync::OnceCell;

/// Answers that are remembered; beyond, only those under way are shared.
const MAX_ANSWERS: usize = 1000;
/// Bytes of an answer that is worth remembering,
const MAX_ANSWER_BYTES: usize = 4 << 20;
/// and of all that are remembered.
const MAX_KEPT_BYTES: usize = 64 << 20;

type Cell = Arc<OnceCell<(Result<Bytes, Error>, Instant)>>;
type Cells = Mutex<HashMap<String, Cell>>;

/// Answers by question.
#[derive(Default)]
pub(super) struct Flights(Arc<Cells>);

impl Flights {
    /// The answer to a question; `ask` is awaited unless somebody asked it in the last `keep`.
    pub async fn get(
        &self,
        question: String,
        keep: Duration,
        ask: impl Future<Output = Result<Bytes, Error>>,
    ) -> Result<Bytes, Error> {
        let cell = {
            let mut flights = lock(&self.0);
            let now = Instant::now();
            flights.retain(|_, cell| match cell.get() {
                // Nobody waits for it: whoever asked has gone.
                None => Arc::strong_count(cell) > 1,
                Some((_, at)) => now.duration_since(*at) < keep,
            });
            match flights.get(&question) {
                Some(cell) => cell.clone(),
                None => {
                    let cell = Cell::default();
                    if flights.len() < MAX_ANSWERS {
                        flights.insert(question.clone(), cell.clone());
                    }
                    cell
                }
            }
        };
        let mut asked = false;
        let init = async || {
            asked = true;
            (ask.await, Instant::now())
        };
        let (answer, _) = cell.get_or_init(init).await;
        let answer = answer.clone();
        if asked {
            self.settle(question, cell, keep, &answer);
        }
        answer
    }

    /// Remembers an answer for a while, or forgets it: those who waited for it have it.
    fn settle(&self, question: String, cell: Cell, keep: Duration, answer: &Result<Bytes, Error>) {
        let mut flights = lock(&self.0);
        let kept = |cell: &Cell| match cell.get() {
            Some((Ok(body), _)) => body.len(),
            _ => 0,
        };
        let small = answer.as_ref().is_ok_and(|body| body.len() <= MAX_ANSWER_BYTES);
        // A failure is shared by those who waited for it, and by nobody else.
        if !small || keep.is_zero() || flights.values().map(kept).sum::<usize>() > MAX_KEPT_BYTES {
            forget(&mut flights, &question, &cell);
            return;
        }
        drop(flights);
        let flights = Arc::downgrade(&self.0);
        tokio::spawn(async move {
            tokio::time::sleep(keep).await;
            if let Some(flights) = flights.upgrade() {
                forget(&mut lock(&flights), &question, &cell);
            }
        });
    }
}

fn lock(cells: &Cells) -> MutexGuard<'_, HashMap<String, Cell>> {
    cells.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where another answer stands in its place already, that one stays.
fn forget(flights: &mut HashMap<String, Cell>, question: &str, cell: &Cell) {
    if flights.get(question).is_some_and(|current| Arc::ptr_eq(current, cell)) {
        flights.remove(question);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    #[tokio::test]
    async fn equal_questions_are_asked_once() {
        let (flights, asked) = (Flights::default(), AtomicUsize::new(0));
        let ask = |answer: Result<&'static str, ()>| {
            let asked = &asked;
            async move {
                asked.fetch_add(1, Relaxed);
                tokio::task::yield_now().await;
                answer.map(Bytes::from).map_err(|()| Error::Execution("no".into()))
            }
        };
        let keep = Duration::from_secs(3600);
        let all = (0..10).map(|_| flights.get("q".into(), keep, ask(Ok("a"))));
        let answers = futures::future::join_all(all).await;
        assert!(answers.iter().all(|a| a.as_deref() == Ok(b"a")));
        assert_eq!(asked.load(Relaxed), 1);
        assert_eq!(
            flights.get("q".into(), keep, ask(Ok("b"))).await.as_deref(),
            Ok(&b"a"[..])
        );
        assert_eq!(
            flights.get("q".into(), Duration::ZERO, ask(Ok("b"))).await.as_deref(),
            Ok(&b"b"[..])
        );
        assert!(flights.get("e".into(), keep, ask(Err(()))).await.is_err());
        assert!(flights.get("e".into(), keep, ask(Ok("c"))).await.is_ok());
        assert_eq!(asked.load(Relaxed), 4);
    }

    #[tokio::test]
    async fn what_is_remembered_has_a_size_and_an_end() {
        let flights = Flights::default();
        let large = async || Ok(Bytes::from(vec![b'x'; MAX_ANSWER_BYTES]));
        let (count, keep) = (MAX_KEPT_BYTES / MAX_ANSWER_BYTES, Duration::from_secs(3600));
        for number in 0..count + 3 {
            let answer = flights.get(number.to_string(), keep, large()).await;
            assert_eq!(answer.map(|body| body.len()), Ok(MAX_ANSWER_BYTES));
        }
        assert_eq!(lock(&flights.0).len(), count);

        // Nobody needs to ask for it to be freed.
        let flights = Flights::default();
        let keep = Duration::from_millis(1);
        let small = async || Ok(Bytes::from_static(b"x"));
        assert!(flights.get("q".into(), keep, small()).await.is_ok());
        let freed = async {
            while !lock(&flights.0).is_empty() {
                tokio::time::sleep(keep).await;
            }
        };
        let freed = tokio::time::timeout(Duration::from_secs(60), freed).await;
        assert!(freed.is_ok(), "the answer is still held");
    }
}
