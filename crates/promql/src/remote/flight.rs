//! Equal questions are asked once: whoever comes while one is under way, or shortly after, gets its answer.

use crate::Error;
use bytes::Bytes;
use std::{
    collections::HashMap,
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use tokio::sync::OnceCell;

/// Answers that are remembered; beyond, only those under way are shared.
const MAX_ANSWERS: usize = 1000;
/// Bytes of an answer that is worth remembering.
const MAX_ANSWER_BYTES: usize = 4 << 20;

type Cell = Arc<OnceCell<(Result<Bytes, Error>, Instant)>>;

/// Answers by question.
#[derive(Default)]
pub(super) struct Flights(Mutex<HashMap<String, Cell>>);

impl Flights {
    /// The answer to a question; `ask` is awaited unless somebody asked it in the last `keep`.
    pub async fn get(
        &self,
        question: String,
        keep: Duration,
        ask: impl Future<Output = Result<Bytes, Error>>,
    ) -> Result<Bytes, Error> {
        let cell = {
            let mut flights = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            flights.retain(|_, cell| match cell.get() {
                // Nobody waits for it: whoever asked has gone.
                None => Arc::strong_count(cell) > 1,
                Some((Ok(body), at)) => now.duration_since(*at) < keep && body.len() <= MAX_ANSWER_BYTES,
                // A failure is shared by those who waited for it, and by nobody else.
                Some((Err(_), _)) => false,
            });
            match flights.get(&question) {
                Some(cell) => cell.clone(),
                None => {
                    let cell = Cell::default();
                    if flights.len() < MAX_ANSWERS {
                        flights.insert(question, cell.clone());
                    }
                    cell
                }
            }
        };
        let (answer, _) = cell.get_or_init(async || (ask.await, Instant::now())).await;
        answer.clone()
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
}
