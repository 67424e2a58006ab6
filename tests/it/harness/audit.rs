//! What an audit log tells.

use casgate::audit::{Event, Line};

/// The lines of a log, those of one call put together: what it names, and how it ended where that is known.
pub(crate) fn calls(text: &str) -> Vec<Line> {
    let mut calls: Vec<Line> = Vec::new();
    for line in text.lines().filter_map(|line| serde_json::from_str::<Line>(line).ok()) {
        let begun = calls
            .iter_mut()
            .find(|call| call.call == line.call && call.event == Event::Begin);
        match (line.event, begun) {
            (Event::End, Some(call)) => {
                call.event = Event::End;
                call.received = line.received;
                call.code = line.code;
                call.reason = line.reason;
                call.answered = line.answered;
            }
            (Event::Begin, Some(call)) => call.absorb(line),
            _ => calls.push(line),
        }
    }
    calls
}
