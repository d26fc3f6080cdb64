//! The thread that speaks MPI. A communicator stays on the thread that made it; a trainer may move to any.
//!
//! MPI trusts that all ranks make the same calls, and waits for ever or mixes up memory where they do not. So every call begins with
//! a word of what each rank is about to do. A rank whose work is over says so until it is over everywhere.

use mpi::Threading;
use mpi::environment::Universe;
use mpi::topology::SimpleCommunicator;
use mpi::traits::{Communicator, CommunicatorCollectives};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;
use wgrad::{Error, Result};

/// What is asked of the thread.
pub enum Call {
    Gather(Vec<u32>),
    Exchange(Vec<u32>),
    /// Ends all ranks; there is no answer.
    Abort,
}

type Question = (Call, Sender<Result<Vec<u32>>>);

/// What a rank is about to do, and with how many words.
type Intent = [u64; 2];

/// Its work is over.
const OVER: u64 = 0;
const GATHER: u64 = 1;
const EXCHANGE: u64 = 2;

/// Which rank this is.
#[derive(Clone, Copy)]
pub struct Place {
    pub rank: usize,
    pub ranks: usize,
    pub local: usize,
}

/// MPI from its beginning to its end.
pub struct Talk {
    pub place: Place,
    questions: Mutex<Option<Sender<Question>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Talk {
    /// Starts MPI on a thread of its own.
    pub fn begin() -> Result<Talk> {
        let (ask, questions) = channel::<Question>();
        let (tell, told) = channel();
        let work = move || {
            // Only this thread calls MPI.
            let Some((universe, _)) = mpi::initialize_with_threading(Threading::Funneled) else { return };
            let world = universe.world();
            let place = Place {
                rank: world.rank().unsigned_abs() as usize,
                ranks: world.size().unsigned_abs() as usize,
                local: world.split_shared(world.rank()).rank().unsigned_abs() as usize,
            };
            if tell.send(place).is_ok() {
                answer(&world, place, &questions);
            }
            finish(universe);
        };
        let started = std::thread::Builder::new().name("wgrad mpi".into()).spawn(work);
        let thread = started.map_err(|e| Error::argument("MPI", format!("no thread could be started: {e}")))?;
        let place = told.recv().map_err(|_| Error::argument("MPI", "it runs already; call wgrad_mpi::run once"))?;
        Ok(Talk { place, questions: Mutex::new(Some(ask)), thread: Mutex::new(Some(thread)) })
    }

    /// Waits until all ranks have made the same call, with equally many words, or one of them another or none any more.
    pub fn call(&self, call: Call) -> Result<Vec<u32>> {
        let over = || Error::Rank { rank: self.place.rank, message: "MPI is over; train inside wgrad_mpi::run".into() };
        let longest = i32::MAX as usize;
        // MPI counts in 32 bits what arrives from all ranks together.
        let words = match &call {
            Call::Gather(words) => words.len().saturating_mul(self.place.ranks),
            Call::Exchange(words) => words.len(),
            _ => 0,
        };
        if words > longest {
            return Err(Error::Limit {
                limit: "words of one MPI message".into(),
                needed: words as u64,
                available: longest as u64,
                hint: "cut parameters into smaller pieces with Params::limit".into(),
            });
        }
        let (tell, told) = channel();
        let asked = lock(&self.questions).as_ref().is_some_and(|ask| ask.send((call, tell)).is_ok());
        if !asked {
            return Err(over());
        }
        told.recv().map_err(|_| over())?
    }

    /// Ends MPI on this rank; waits for the others to do the same. Those that still call are told that this one's work is over.
    pub fn end(&self) {
        *lock(&self.questions) = None;
        if let Some(thread) = lock(&self.thread).take() {
            let _ = thread.join();
        }
    }

    /// Ends all ranks.
    pub fn abort(&self) -> ExitCode {
        let (tell, told) = channel();
        if let Some(ask) = &*lock(&self.questions) {
            let _ = ask.send((Call::Abort, tell));
        }
        // Not reached, unless another thread of this rank waits for the others: then mpirun ends them when this one ends.
        let _ = told.recv_timeout(Duration::from_secs(5));
        std::process::exit(1)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn answer(world: &SimpleCommunicator, place: Place, questions: &Receiver<Question>) {
    for (call, tell) in questions {
        // Who asked may have gone.
        let _ = tell.send(make(world, place, &call));
    }
    while intents(world, place, [OVER, 0]).iter().any(|[kind, _]| *kind != OVER) {}
}

/// What all ranks are about to do.
fn intents(world: &SimpleCommunicator, place: Place, own: Intent) -> Vec<Intent> {
    let mut all = vec![0; own.len() * place.ranks];
    world.all_gather_into(&own, &mut all[..]);
    all.chunks_exact(own.len()).map(|one| [one[0], one[1]]).collect()
}

fn make(world: &SimpleCommunicator, place: Place, call: &Call) -> Result<Vec<u32>> {
    let (kind, words) = match call {
        Call::Gather(words) => (GATHER, words),
        Call::Exchange(words) => (EXCHANGE, words),
        Call::Abort => world.abort(1),
    };
    let own = [kind, words.len() as u64];
    let all = intents(world, place, own);
    let blamed =
        all.iter().position(|[kind, _]| *kind == OVER).or_else(|| all.iter().position(|theirs| *theirs != own));
    if let Some(rank) = blamed {
        let message = match all[rank] {
            [OVER, _] => {
                "is gone: its work is over, so no step can be made together; give all ranks equally many".into()
            }
            [other, _] if other != kind => {
                format!("made another call than rank {}; all make the same ones in the same order", place.rank)
            }
            [_, count] => format!("brought {count} words where rank {} has {}", place.rank, words.len()),
        };
        return Err(Error::Rank { rank, message });
    }
    let mut got;
    match call {
        Call::Exchange(_) => {
            got = vec![0; words.len()];
            world.all_to_all_into(&words[..], &mut got[..]);
        }
        _ => {
            got = vec![0; words.len() * place.ranks];
            world.all_gather_into(&words[..], &mut got[..]);
        }
    }
    Ok(got)
}

/// `MPI_Finalize`, which waits for the other ranks.
fn finish(universe: Universe) {
    drop(universe);
}
