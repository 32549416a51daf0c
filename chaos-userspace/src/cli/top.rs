//! `kchaos top`: the live runs of this host, as they go.

use super::{
    exit,
    failure::Failure,
    signals,
    stop::{self, Ended},
};
use crate::{
    live::{
        draw::draw,
        keys::{self, Action},
        model::Board,
        sample::Round,
        terminal::Lent,
        typed::Typed,
    },
    runs::client,
};
use clap::Args;
use nix::sys::signalfd::SignalFd;
use std::{
    io::{self, IsTerminal as _},
    sync::mpsc::{self, Sender},
    thread,
    time::{Duration, Instant},
};

/// Arguments of `kchaos top`.
#[derive(Args, Debug)]
pub struct Top {
    /// Only this run, or those whose id begins so
    id: Option<String>,
}

/// Between two questions to the owners.
const PERIOD: Duration = Duration::from_millis(500);
/// A key is heard at once; what threads tell and what signals ask for, within this time.
const TICK: Duration = Duration::from_millis(100);

/// What other threads tell.
enum News {
    Round(Round),
    Said(String),
    Failed(String),
}

/// Runs the command.
pub fn run(arguments: &Top, json: bool) -> Result<u8, Failure> {
    if json || !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        let message = "top needs a terminal: use kchaos list or kchaos status ID, which take --json";
        return Err(Failure::new(exit::USAGE, message));
    }
    let only = arguments.id.clone().unwrap_or_default();
    if arguments.id.is_some() {
        // Says what is wrong with it while there is a place to say it.
        match client::find(&only) {
            Ok(_) | Err(client::Error::Ambiguous(..)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    // Before other threads are started, which would die of them otherwise.
    let ends = signals::block().map_err(unable)?;
    let mut lent = Lent::take().map_err(unable)?;
    let result = watch(&mut lent, &ends, only);
    drop(lent);
    result.map(|()| exit::DONE)
}

fn unable(error: io::Error) -> Failure {
    Failure::new(exit::UNABLE, format!("the terminal: {error}"))
}

fn watch(lent: &mut Lent, ends: &SignalFd, only: String) -> Result<(), Failure> {
    let (tell, news) = mpsc::channel();
    let asker = tell.clone();
    // Ends with this process: it only reads.
    thread::spawn(move || ask_again_and_again(&only, &asker));
    let mut board = Board::new(Instant::now());
    let typed = Typed::listen();
    loop {
        lent.draw(|frame| draw(frame, &board)).map_err(unable)?;
        if let Some(key) = typed.next(TICK).map_err(unable)? {
            match keys::press(&mut board, key) {
                Action::Stay => {}
                Action::Leave => return Ok(()),
                Action::Stop(run) => {
                    board.note(Instant::now(), format!("{run} is being ended"));
                    let tell = tell.clone();
                    thread::spawn(move || {
                        // Nobody listens any more once the view is left.
                        let _ = tell.send(News::Said(end(&run)));
                    });
                }
            }
        }
        if ends.read_signal().map_err(|error| unable(error.into()))?.is_some() {
            return Ok(());
        }
        for one in news.try_iter() {
            match one {
                News::Round(round) => board.take(round),
                News::Said(text) => board.note(Instant::now(), text),
                News::Failed(message) => return Err(Failure::new(exit::UNABLE, message)),
            }
        }
    }
}

fn ask_again_and_again(only: &str, tell: &Sender<News>) {
    loop {
        let begin = Instant::now();
        let news = match Round::ask(only) {
            Ok(round) => News::Round(round),
            Err(error) => News::Failed(error.to_string()),
        };
        if tell.send(news).is_err() {
            return;
        }
        thread::sleep(PERIOD.saturating_sub(begin.elapsed()));
    }
}

/// Ends a run and says what came of it.
fn end(id: &str) -> String {
    let ended = match client::find(id) {
        Ok(run) => stop::end(run),
        Err(client::Error::Unknown(_)) => Ok(Ended::ByItself),
        Err(error) => Err(error.into()),
    };
    match ended {
        Ok(Ended::Told { outcome, summary, .. }) => {
            let took = &summary["undone"]["took_ms"];
            let problems = summary["undone"]["problems"].as_array().map_or(0, Vec::len);
            match problems {
                0 => format!("{id} ended ({outcome}), undone in {took} ms"),
                count => format!("{id} ended ({outcome}); {count} THINGS ARE NOT UNDONE: see kchaos clean"),
            }
        }
        Ok(Ended::ByItself) => format!("{id} has ended by itself"),
        Err(failure) => format!("{id}: {}", failure.message),
    }
}
