//! What keys do.

use super::model::Board;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

/// What a key asks for beyond the view itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing.
    Stay,
    /// Leave the view; the runs go on.
    Leave,
    /// End this run.
    Stop(String),
}

/// Takes a key. Ending a run takes two: `x`, and `y` for yes.
pub fn press(board: &mut Board, key: KeyEvent) -> Action {
    if key.kind == KeyEventKind::Release {
        return Action::Stay;
    }
    if let Some(asked) = board.asked.take() {
        return if key.code == KeyCode::Char('y') { Action::Stop(asked) } else { Action::Stay };
    }
    let last = board.runs.len().saturating_sub(1);
    match key.code {
        // Where the run is ours, the key does what it does to every command.
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => {
            return board.own.clone().map_or(Action::Leave, Action::Stop);
        }
        KeyCode::Char('q') | KeyCode::Esc => return Action::Leave,
        KeyCode::Up | KeyCode::Char('k') => board.chosen = board.chosen.saturating_sub(1),
        KeyCode::Down | KeyCode::Char('j') => board.chosen = (board.chosen + 1).min(last),
        KeyCode::Char('x') => board.asked = board.chosen().map(|view| view.id().to_owned()),
        _ => {}
    }
    Action::Stay
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::live::model::tests::{round, sample};
    use std::time::Instant;

    #[test]
    fn ending_a_run_takes_two_keys() {
        let begin = Instant::now();
        let mut board = Board::new(begin);
        let key = |letter| KeyEvent::from(KeyCode::Char(letter));
        assert_eq!((press(&mut board, key('x')), &board.asked), (Action::Stay, &None));
        board.take(round(begin, vec![sample("a", 0, 1.0), sample("b", 0, 1.0)]));
        press(&mut board, key('j'));
        press(&mut board, key('j'));
        assert_eq!((press(&mut board, key('x')), board.asked.as_deref()), (Action::Stay, Some("b")));
        // Whoever is not sure ends nothing, and does not leave either.
        assert_eq!((press(&mut board, key('q')), &board.asked), (Action::Stay, &None));
        assert_eq!(press(&mut board, key('y')), Action::Stay);
        press(&mut board, key('x'));
        assert_eq!(press(&mut board, key('y')), Action::Stop("b".to_owned()));
        assert_eq!(press(&mut board, key('q')), Action::Leave);
        let interrupt = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        assert_eq!(press(&mut board, interrupt), Action::Leave);
        let mut own = Board::of_experiment(begin, "a");
        assert_eq!(press(&mut own, interrupt), Action::Stop("a".to_owned()));
        assert_eq!(press(&mut own, key('q')), Action::Leave);
    }
}
