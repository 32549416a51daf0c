//! The view as a frame: a list of the runs, the chosen one in full, what happened, and the keys.

use super::{
    model::{Board, Note, View},
    tables::{self, cut, rate, thousands},
};
use crate::{
    plan::explain::{escaped, shown},
    report::restarts::Restarts,
    runs::{
        message::{State, Status},
        progress::Progress,
    },
};
use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style},
    text::{Line, Span},
    widgets::Paragraph,
};

pub(super) const QUIET: Style = Style::new().add_modifier(Modifier::DIM);
const STRONG: Style = Style::new().add_modifier(Modifier::BOLD);
pub(super) const FAILED: Style = Style::new().fg(Color::Red);

/// Rows of the list of runs.
const LIST_MAX: usize = 8;
/// Targets that are named.
const TARGETS_MAX: usize = 4;
/// Rows of what happened.
const NOTES_MAX: u16 = 5;
/// The same on a low terminal.
const NOTES_LOW: u16 = 3;
/// A terminal of fewer rows is low.
const LOW: u16 = 32;
/// Rows of a hypothesis.
const HYPOTHESIS_MAX: usize = 2;
/// Columns of the bar of time.
const BAR: usize = 30;

/// Draws all of it. What has no room is left out from below; the keys are always there.
pub fn draw(frame: &mut Frame<'_>, board: &Board) {
    let list = match (&board.own, board.chosen()) {
        (Some(_), Some(view)) => own(view, frame.area().width.into()),
        (Some(run), None) => {
            vec![Line::from(vec![Span::styled("kchaos run  ", STRONG), Span::raw(run.clone())])]
        }
        (None, _) => list(board),
    };
    let rows = |lines: &[Line<'_>]| u16::try_from(lines.len()).unwrap_or(u16::MAX);
    let most = if frame.area().height < LOW { NOTES_LOW } else { NOTES_MAX };
    let notes = u16::try_from(board.notes.len()).unwrap_or(u16::MAX).min(most) + 1;
    let areas = Layout::vertical([
        Constraint::Length(rows(&list)),
        Constraint::Fill(1),
        Constraint::Length(if frame.area().height > 16 { notes } else { 0 }),
        Constraint::Length(1),
    ])
    .split(frame.area());
    let [top, middle, happened, keys] = areas[..] else { return };
    frame.render_widget(Paragraph::new(list), top);
    let chosen = board.chosen().map(|view| one(view, middle)).unwrap_or_default();
    frame.render_widget(Paragraph::new(chosen), middle);
    frame.render_widget(Paragraph::new(notes_in(board, happened)), happened);
    frame.render_widget(Paragraph::new(footer(board)), keys);
}

fn list(board: &Board) -> Vec<Line<'static>> {
    let count = match board.runs.len() {
        0 => "nothing runs on this host".to_owned(),
        count => counted(count, "run", "s"),
    };
    let mut lines = vec![Line::from(vec![Span::styled("kchaos top  ", STRONG), Span::raw(count)])];
    if board.runs.is_empty() {
        return lines;
    }
    let head = format!(
        "  {:9} {:8} {:9} {:>7} {:>10} {:>8}  target",
        "run", "command", "state", "left", "injected", "/s"
    );
    lines.push(Line::styled(head, QUIET));
    // Those around the chosen one.
    let first = board.chosen.saturating_sub(LIST_MAX - 1);
    for (place, view) in board.runs.iter().enumerate().skip(first).take(LIST_MAX) {
        let status = &view.sample.status;
        let injected: u64 = status.rules.iter().map(|rule| rule.injected.events).sum();
        let is_chosen = place == board.chosen;
        let style = if is_chosen { STRONG } else { Style::new() };
        lines.push(Line::from(vec![
            Span::styled(
                format!("{} {:9} {:8} ", if is_chosen { ">" } else { " " }, status.run, status.command),
                style,
            ),
            match view.problem {
                None => Span::styled(format!("{:9}", status.state.name()), color(status.state)),
                Some(_) => Span::styled(format!("{:9}", "silent"), Style::new().fg(Color::Yellow)),
            },
            Span::styled(
                format!(
                    " {:>7} {:>10} {:>8}  {}",
                    status.remaining_s.map_or_else(|| "-".to_owned(), clock),
                    thousands(injected),
                    rate(view.rate()),
                    status.target_in_words()
                ),
                style,
            ),
        ]));
    }
    let hidden = board.runs.len().saturating_sub(first + LIST_MAX);
    if hidden > 0 {
        lines.push(Line::styled(format!("  and {hidden} more"), QUIET));
    }
    lines.push(Line::default());
    lines
}

/// What a run says of itself.
fn own(view: &View, columns: usize) -> Vec<Line<'static>> {
    let Some(progress) = &view.sample.status.experiment else { return vec![] };
    let Progress { experiment, hypothesis, phase, stage, .. } = &**progress;
    let now = match phase.as_str() {
        "before" => "is there a steady state?",
        "faults" => "under fault",
        "after" => "does the steady state return?",
        other => other,
    };
    let color = Style::new().fg(if phase == "faults" { Color::Red } else { Color::Yellow });
    let stage =
        stage.as_ref().filter(|_| phase == "faults").map(|stage| format!(", stage {}", escaped(stage)));
    let mut lines = vec![Line::from(vec![
        Span::styled("kchaos run  ", STRONG),
        Span::styled(format!("{}  ", escaped(experiment)), STRONG),
        Span::styled(now.to_owned(), color),
        Span::styled(stage.unwrap_or_default(), color),
    ])];
    lines.extend(wrapped(&escaped(hypothesis), columns).into_iter().map(|line| Line::styled(line, QUIET)));
    lines.push(Line::default());
    lines
}

/// A text by words in a few rows; what has no room there is cut.
fn wrapped(text: &str, columns: usize) -> Vec<String> {
    let mut rows: Vec<String> = vec![];
    for word in text.split_whitespace() {
        let is_last = rows.len() == HYPOTHESIS_MAX;
        match rows.last_mut() {
            Some(row) if row.chars().count() + 1 + word.chars().count() <= columns => {
                row.push(' ');
                row.push_str(word);
            }
            Some(row) if is_last => {
                row.push('…');
                break;
            }
            _ => rows.push(word.to_owned()),
        }
    }
    rows.iter().map(|row| cut(row, columns)).collect()
}

/// A run in full, or what matters most of it where there is less room.
fn one(view: &View, area: Rect) -> Vec<Line<'static>> {
    let rows = usize::from(area.height);
    let full = told(view, area, usize::MAX, false);
    if full.len() <= rows {
        return full;
    }
    // Without probes, what each fault is and the overhead stand below, and are cut there.
    let Some(progress) = &view.sample.status.experiment else { return full };
    let short = told(view, area, usize::MAX, true);
    let Some(missing) = short.len().checked_sub(rows).filter(|missing| *missing > 0) else { return short };
    told(view, area, progress.probes.len().saturating_sub(missing), true)
}

/// All of a run. `is_short` leaves out what faults are, single targets and the overhead.
fn told(view: &View, area: Rect, probe_rows: usize, is_short: bool) -> Vec<Line<'static>> {
    let status = &view.sample.status;
    let columns = usize::from(area.width);
    let mut lines = vec![Line::from(vec![
        Span::styled(format!("{}  ", status.run), STRONG),
        Span::styled(
            format!("by process {}{}", status.pid, if status.observe { ", counts only" } else { "" }),
            QUIET,
        ),
    ])];
    let targets = targets(view);
    let named = if is_short { 1 } else { targets.len() };
    lines.extend(targets.into_iter().take(named));
    lines.push(time(status));
    lines.push(Line::default());
    lines.extend(tables::faults(view, columns, is_short));
    lines.push(Line::default());
    if let Some(progress) = status.experiment.as_ref().filter(|progress| !progress.probes.is_empty()) {
        lines.extend(tables::probes(&progress.probes, columns, probe_rows));
        lines.push(Line::default());
    }
    if is_short {
        // The last one is empty.
        lines.pop();
        return lines;
    }
    let part = |known: Option<String>| known.unwrap_or_else(|| "unknown".to_owned());
    lines.push(Line::from(vec![
        Span::styled("overhead  ", QUIET),
        Span::raw(format!(
            "owner: {} of a processor, {} of memory",
            part(view.cpu_percent.map(|percent| format!("{percent:.1}%"))),
            part(view.sample.memory.map(|bytes| format!("{:.0} MiB", bytes as f64 / f64::from(1 << 20))))
        )),
    ]));
    lines
}

fn targets(view: &View) -> Vec<Line<'static>> {
    let status = &view.sample.status;
    let processes: usize = view.sample.processes.iter().sum();
    let more = status.targets.saturating_sub(view.sample.processes.len());
    let unseen = if more > 0 { format!(" and those of {more} more") } else { String::new() };
    let all = format!(
        "{} in {}{unseen}",
        counted(processes, "process", "es"),
        counted(status.targets, "cgroup", "s")
    );
    let mut lines = vec![Line::from(vec![Span::styled("targets   ", QUIET), Span::raw(all)])];
    for (path, count) in status.chosen.iter().zip(&view.sample.processes).take(TARGETS_MAX) {
        let restarts = status.restarted.iter().find(|restarts| restarts.cgroup == *path);
        let note = restarts.map(Restarts::note_in_words).unwrap_or_default();
        lines.push(Line::raw(format!("  {count:>6}  {}{note}", shown(path))));
    }
    lines
}

fn time(status: &Status) -> Line<'static> {
    let since = status.armed_s.unwrap_or(0.0);
    let label = Span::styled("time      ", QUIET);
    match status.remaining_s {
        _ if status.state == State::Starting => Line::from(vec![label, Span::raw("no fault acts yet")]),
        _ if status.state == State::Ended => Line::from(vec![label, Span::raw("the faults are over")]),
        None => Line::from(vec![label, Span::raw(format!("live for {}, until it is ended", clock(since)))]),
        Some(left) => {
            let whole = (since + left).max(f64::EPSILON);
            let full = ((since / whole * BAR as f64) as usize).min(BAR);
            Line::from(vec![
                label,
                Span::styled("█".repeat(full), Style::new().fg(Color::Yellow)),
                Span::styled("░".repeat(BAR - full), QUIET),
                Span::raw(format!("  {} left of {}", clock(left), clock(whole))),
            ])
        }
    }
}

fn notes_in(board: &Board, area: Rect) -> Vec<Line<'static>> {
    let room = usize::from(area.height.saturating_sub(1));
    let last = board.notes.iter().skip(board.notes.len().saturating_sub(room));
    let line = |Note { at, text }: &Note| {
        // What a run says of itself has its time already.
        let at = board.own.is_none().then(|| format!("{:>8}  ", clock(at.as_secs_f64())));
        Line::from(vec![Span::styled(at.unwrap_or_default(), QUIET), Span::raw(escaped(text))])
    };
    let head = Line::styled("what happened", QUIET);
    if area.height == 0 { vec![] } else { std::iter::once(head).chain(last.map(line)).collect() }
}

fn footer(board: &Board) -> Line<'static> {
    match &board.asked {
        Some(run) => Line::styled(
            format!("End {run} and undo all of it?  y yes   any other key no"),
            Style::new().fg(Color::Red).add_modifier(Modifier::BOLD),
        ),
        None if board.own.is_some() => {
            Line::styled("x end the run and undo all of it   q go on without this view", QUIET)
        }
        None => Line::styled("↑↓ choose   x end the chosen run   q leave, runs go on", QUIET),
    }
}

fn color(state: State) -> Style {
    Style::new().fg(match state {
        State::Armed => Color::Red,
        State::Starting => Color::Yellow,
        State::Ended => Color::Green,
    })
}

/// So many of something.
fn counted(number: usize, one: &str, plural: &str) -> String {
    format!("{number} {one}{}", if number == 1 { "" } else { plural })
}

/// Minutes and seconds, with hours in front if there are any.
fn clock(seconds: f64) -> String {
    let whole = seconds.max(0.0) as u64;
    let (hours, minutes, seconds) = (whole / 3600, whole / 60 % 60, whole % 60);
    if hours > 0 {
        format!("{hours}:{minutes:02}:{seconds:02}")
    } else {
        format!("{minutes:02}:{seconds:02}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        live::model::tests::{round, sample},
        runs::{
            message::Drawn,
            progress::{Point, ProbeStatus},
        },
    };
    use ratatui::{Terminal, backend::TestBackend};
    use std::time::{Duration, Instant};

    fn frame(board: &Board, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, board)).unwrap();
        let cells = terminal.backend().buffer().content();
        let rows =
            cells.chunks(width.into()).map(|row| row.iter().map(|cell| cell.symbol()).collect::<String>());
        rows.map(|row| row.trim_end().to_owned() + "\n").collect()
    }

    fn board() -> Board {
        let begin = Instant::now();
        let mut board = Board::new(begin);
        for second in 0..12u32 {
            let injected = u64::from(second * second) * 7;
            let samples = vec![sample("a1b2c3d4", injected, f64::from(second)), sample("e5f6g7h8", 0, 3.0)];
            board.take(round(begin + Duration::from_secs(second.into()), samples));
        }
        board
    }

    #[test]
    fn a_frame_says_who_is_hit_by_what_and_how_often() {
        let mut board = board();
        let wide = frame(&board, 120, 30);
        let expected = "\
kchaos top  2 runs
  run       command  state        left   injected       /s  target
> a1b2c3d4  inject   armed       00:49        847      147  /sys/fs/cgroup/shop.slice/shop.service and 1 more
  e5f6g7h8  inject   armed       00:57          0        0  /sys/fs/cgroup/shop.slice/shop.service and 1 more

a1b2c3d4  by process 812
targets   4 processes in 2 cgroups
       3  /sys/fs/cgroup/shop.slice/shop.service
       1  /sys/fs/cgroup/shop.slice/cart.service
time      █████░░░░░░░░░░░░░░░░░░░░░░░░░  00:49 left of 01:00

fault       asked           achieved (95%)    matched   injected       /s  last minute
loss        10.0%        8.5% (7.9 to 9.0)     10 000        847      147  ▁▂▃▃▄▅▅▆▇▇█
  lose 10% of egress packets

overhead  owner: 1.0% of a processor, 14 MiB of memory
";
        assert!(wide.starts_with(expected), "{wide}");
        assert!(
            wide.ends_with("q leave, runs go on\n") && wide.contains("   00:00  a1b2c3d4 is armed\n"),
            "{wide}"
        );
        board.asked = Some("a1b2c3d4".to_owned());
        assert!(
            frame(&board, 80, 24).ends_with("End a1b2c3d4 and undo all of it?  y yes   any other key no\n")
        );
    }

    #[test]
    fn a_share_is_compared_with_what_was_drawn_since_it_is_asked_for() {
        let begin = Instant::now();
        let mut board = Board::new(begin);
        let mut one = sample("a", 1_000, 1.0);
        one.status.rules[0].drawn_before = Drawn { injected: 900, spared: 8_600 };
        board.take(round(begin, vec![one]));
        let frame = frame(&board, 120, 30);
        assert!(frame.contains(" 20.0% (16.7 to 23.7)     10 000      1 000 "), "{frame}");
    }

    #[test]
    fn a_run_shows_its_experiment_and_its_probes() {
        let begin = Instant::now();
        let mut board = Board::of_experiment(begin, "a1b2c3d4");
        assert!(frame(&board, 80, 24).starts_with("kchaos run  a1b2c3d4\n"));
        let mut one = sample("a1b2c3d4", 100, 5.0);
        let point = |value: f64, holds| Point { value: Some(value), holds };
        let probe = |name: &str, tolerated: &str, last: &str, course: &[Point]| ProbeStatus {
            name: name.to_owned(),
            tolerated: tolerated.to_owned(),
            answers: 1_000,
            failed: 1,
            last: Some(last.to_owned()),
            course: course.iter().copied().collect(),
        };
        let probes = vec![
            probe(
                "page",
                "200",
                "503 is not 200",
                &[point(200.0, true), Point { value: None, holds: false }],
            ),
            probe(
                "wait",
                "at most 300 ms",
                "12 ms",
                &[point(0.1, true), point(0.4, false), point(0.012, true)],
            ),
            probe(
                "body",
                "a text of more characters than there is room",
                "kchaos",
                &[Point { value: None, holds: true }],
            ),
        ];
        one.status.experiment = Some(Box::new(Progress {
            experiment: "slow".to_owned(),
            hypothesis: "Customers do not notice\u{9b}2J.".to_owned(),
            phase: "faults".to_owned(),
            stage: Some("worse".to_owned()),
            probes,
        }));
        board.take(round(begin, vec![one.clone()]));
        let wide = frame(&board, 120, 40);
        assert!(
            wide.starts_with(
                "kchaos run  slow  under fault, stage worse\nCustomers do not notice\\u{9b}2J.\n\na1b2c3d4  by process 812\n"
            ),
            "{wide}"
        );
        let expected = "
probe                 tolerated  last                         failed  last answers
page                        200  503 is not 200           1 of 1 000  █×
wait             at most 300 ms  12 ms                    1 of 1 000  ▃█▁
body";
        assert!(wide.contains(expected), "{wide}");
        assert!(
            wide.contains("a text of more charac…  kchaos ") && wide.ends_with("without this view\n"),
            "{wide}"
        );
        assert!(board.notes.is_empty(), "{:?}", board.notes);
        for (state, words) in [(State::Starting, "no fault acts yet"), (State::Ended, "the faults are over")]
        {
            one.status.state = state;
            board.take(round(begin + Duration::from_secs(1), vec![one.clone()]));
            assert!(frame(&board, 80, 30).contains(words));
        }
    }

    #[test]
    fn any_size_has_the_keys_at_its_bottom() {
        let board = board();
        for (width, height) in [(80, 24), (40, 10), (20, 3), (1, 1), (300, 100)] {
            let frame = frame(&board, width, height);
            assert_eq!(frame.lines().count(), usize::from(height));
            assert!(frame.lines().last().unwrap().starts_with('↑'), "{frame}");
        }
        assert!(
            frame(&Board::new(Instant::now()), 80, 24).starts_with("kchaos top  nothing runs on this host\n")
        );
        assert_eq!(
            (clock(61.9), clock(3661.0), clock(-1.0)),
            ("01:01".into(), "1:01:01".into(), "00:00".into())
        );
    }

    /// On the smallest terminal that people have, who is hit how often and what fails are there.
    #[test]
    fn what_matters_has_room_on_a_small_terminal() {
        let begin = Instant::now();
        let mut board = Board::of_experiment(begin, "a1b2c3d4");
        let mut one = sample("a1b2c3d4", 1_234, 5.0);
        let rule = one.status.rules[0].clone();
        one.status.rules = vec![rule.clone(), rule.clone(), rule];
        one.status.rules[0].name = "a-connection-that-has-a-long-name".to_owned();
        let probe = |name: &str, holds: bool| ProbeStatus {
            name: name.to_owned(),
            tolerated: "at most 300 ms".to_owned(),
            answers: 20,
            failed: u64::from(!holds),
            last: Some("1.032 s is not at most 300 ms".to_owned()),
            course: [Point { value: Some(1.0), holds }].into(),
        };
        let mut probes: Vec<_> = (0..9).map(|number| probe(&format!("fine-{number}"), true)).collect();
        probes.push(probe("late", false));
        one.status.experiment = Some(Box::new(Progress {
            experiment: "shop".to_owned(),
            hypothesis: "word ".repeat(60),
            phase: "faults".to_owned(),
            stage: None,
            probes,
        }));
        for second in 0..4 {
            board.take(round(begin + Duration::from_secs(second), vec![one.clone()]));
        }
        let small = frame(&board, 80, 24);
        for shown in ["a-connection-that… ", " 1 234 ", "\nlate ", "word…\n", "left of 01:00", "q go on"]
        {
            assert!(small.contains(shown), "{shown} is missing in\n{small}");
        }
        let first = small.lines().skip_while(|line| !line.starts_with("probe ")).nth(1).unwrap();
        assert!(first.starts_with("late ") && first.ends_with('█'), "{small}");
        let large = frame(&board, 140, 60);
        assert!(large.contains("lose 10% of egress packets") && large.contains("overhead"), "{large}");
        let first = large.lines().skip_while(|line| !line.starts_with("probe ")).nth(1).unwrap();
        assert!(first.starts_with("fine-0 "), "{large}");
    }

    #[test]
    fn what_others_wrote_does_not_steer_the_terminal() {
        let begin = Instant::now();
        let mut board = Board::new(begin);
        let mut bad = sample("a", 0, 1.0);
        bad.status.rules[0].fault = "lose\u{1b}[2J\u{9b}1m".to_owned();
        bad.status.chosen[0] = "/x\u{1b}]0;owned\u{7}".into();
        board.take(round(begin, vec![bad]));
        let frame = frame(&board, 120, 30);
        assert!(
            frame.chars().all(|letter| letter == '\n' || !letter.is_control()) && frame.contains("\\u{1b}"),
            "{frame}"
        );
    }
}
