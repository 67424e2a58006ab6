//! The results as a table: every must and aim, reached or not.

use std::fmt::Write;
use std::process::Command;

use crate::contestants::Contestant;
use crate::measure::Quantity;
use crate::run::{ArmOutcome, Outcome, Plan};
use crate::workloads::{Goals, Workload};

/// The whole report in Markdown.
pub(crate) fn markdown(plan: &Plan, outcome: &Outcome) -> String {
    let mut text = String::from("# casgate beside others\n\n");
    let arguments: Vec<String> = std::env::args().skip(1).filter(|one| one != "--bench").collect();
    let command = format!("cargo bench --bench side_by_side -- {}", arguments.join(" "));
    let command = command.trim_end_matches([' ', '-']);
    let rounds = plan.rounds;
    let seconds = plan.span.measured.as_secs_f64();
    text += &format!(
        "Made by `{command}` on {}, on {}. Measured: {}.\n\n",
        output("date", &["-u", "+%Y-%m-%d %H:%M UTC"]),
        machine(),
        outcome.versions.join(", ")
    );
    text += &format!(
        "Medians of {rounds} runs of {seconds} s each, in turn; a ratio is the median of those within a round, and so not always \
         that of two numbers in the table. Whoever is measured has one core and one worker; clients and a \
         backend that answers with bytes that were made before have another; only where threads are compared, all of them \
         share both cores. TLS 1.3 with client certificates, X25519 and \
         AES-128-GCM, no resumption; HTTP/2 in the clear to the backend; the same rights for two identities; logs off. \
         \"Floor\" is a relay that ends TLS and copies bytes: it knows no HTTP/2 and no rights. CPU is that of all \
         processes of the one that is measured, user and system. casgate is built as `cargo build --release` does it, with a \
         profile of these works; the others are as their makers built them.\n\n"
    );
    for (contestant, reason) in &outcome.missing {
        text += &format!("**Not measured: {contestant}**: {}\n\n", reason.replace('\n', " "));
    }
    text += "| work | what | floor | HAProxy | nginx | Envoy | casgate | to best other | must | aim | to floor | aim | |\n\
             |---|---|---|---|---|---|---|---|---|---|---|---|---|\n";
    for (workload, arms) in &outcome.outcomes {
        if !workload.is_of_each_alone() && !workload.is_far() {
            for (quantity, goals) in workload.quantities() {
                text += &row(plan, *workload, arms, quantity, goals);
            }
        }
    }
    far(&mut text, outcome);
    alone(&mut text, outcome);
    before(&mut text, outcome);
    errors(&mut text, outcome);
    text
}

/// The ratio of casgate to the competitor that it is worst beside, and to the floor.
fn ratios(arms: &[ArmOutcome], quantity: Quantity) -> (Option<f64>, Option<f64>) {
    let to = |other| arm(arms, Contestant::Casgate)?.ratio_to(arm(arms, other)?, quantity);
    let others = Contestant::ALL
        .into_iter()
        .filter(|one| one.is_competitor())
        .filter_map(to);
    let worst = if quantity.is_speed() {
        others.reduce(f64::min)
    } else {
        others.reduce(f64::max)
    };
    (worst, to(Contestant::Floor))
}

/// What a contestant reached.
pub(crate) fn value(arms: &[ArmOutcome], contestant: Contestant, quantity: Quantity) -> Option<f64> {
    arm(arms, contestant)?.median(quantity)
}

fn arm(arms: &[ArmOutcome], contestant: Contestant) -> Option<&ArmOutcome> {
    arms.iter().find(|one| one.arm.contestant == Some(contestant))
}

fn row(plan: &Plan, workload: Workload, arms: &[ArmOutcome], quantity: Quantity, goals: Option<Goals>) -> String {
    let mut line = match workload {
        Workload::Idle => format!("| {}: {workload} | {} |", plan.idle, quantity.unit()),
        _ => format!("| {workload} | {} |", quantity.unit()),
    };
    for contestant in Contestant::ALL {
        line += &match arm(arms, contestant) {
            None => " not measured |".to_owned(),
            Some(arm) => format!(" {} |", cell(arm, quantity)),
        };
    }
    let (to_best, to_floor) = ratios(arms, quantity);
    let is_valid = arms.iter().all(|arm| arm.errors.is_empty());
    let verdict = match (goals, to_best) {
        _ if !is_valid => "invalid: see below",
        (None, _) => "",
        (Some(_), None) => "not measured",
        (Some(goals), Some(to_best)) => verdict(goals, to_best, to_floor),
    };
    let goal = |goal: Option<f64>| goal.map_or(String::new(), |goal| format!("≤ {goal:.2}"));
    let _infallible = writeln!(
        line,
        " {} | {} | {} | {} | {} | {verdict} |",
        number(to_best),
        goal(goals.map(|goals| goals.must)),
        goal(goals.and_then(|goals| goals.aim)),
        number(to_floor),
        goal(goals.and_then(|goals| goals.floor_aim)),
    );
    line
}

fn verdict(goals: Goals, to_best: f64, to_floor: Option<f64>) -> &'static str {
    let reaches_aim = goals.aim.is_none_or(|aim| to_best <= aim);
    let reaches_floor_aim = goals
        .floor_aim
        .is_none_or(|aim| to_floor.is_some_and(|ratio| ratio <= aim));
    match (to_best <= goals.must, reaches_aim, reaches_floor_aim) {
        (false, ..) => "**must missed**",
        (true, true, true) => "reached",
        (true, false, _) => "must reached, aim missed",
        (true, true, false) => "reached, but for the aim to the floor",
    }
}

fn far(text: &mut String, outcome: &Outcome) {
    let far = outcome.outcomes.iter().filter(|(workload, _)| workload.is_far());
    let mut is_first = true;
    for (workload, arms) in far {
        if is_first {
            *text += "\nOf a direct connection in the clear over the same line, must be at least 0.80:\n\n\
                      | work | what | direct | floor | HAProxy | nginx | Envoy | casgate | |\n|---|---|---|---|---|---|---|---|---|\n";
            is_first = false;
        }
        let quantity = Quantity::BytesPerSecond;
        let direct = arms.iter().find(|one| one.arm.contestant.is_none());
        let share = |contestant| arm(arms, contestant)?.ratio_to(direct?, quantity);
        *text += &format!(
            "| {workload} | {}, share of direct | {} |",
            quantity.unit(),
            direct.map_or(String::new(), |direct| cell(direct, quantity))
        );
        for contestant in Contestant::ALL {
            *text += &match value(arms, contestant, quantity).zip(share(contestant)) {
                Some((value, share)) => format!(" {}, {share:.2} |", number(Some(value))),
                None => " not measured |".to_owned(),
            };
        }
        *text += match share(Contestant::Casgate) {
            Some(share) if share >= 0.8 => " reached |\n",
            Some(_) => " **must missed** |\n",
            None => " invalid |\n",
        };
    }
}

fn alone(text: &mut String, outcome: &Outcome) {
    let alone = outcome
        .outcomes
        .iter()
        .filter(|(workload, _)| workload.is_of_each_alone())
        .flat_map(|(workload, arms)| arms.chunks_exact(2).map(move |pair| (workload, &pair[0], &pair[1])));
    let mut is_first = true;
    for (workload, before, after) in alone {
        if is_first {
            *text += "\nEach beside itself:\n\n| work | what | before | after | ratio | must | |\n|---|---|---|---|---|---|---|\n";
            is_first = false;
        }
        for (quantity, goals) in workload.quantities() {
            // The others are there to show what the machine makes of it.
            let goals = goals.filter(|_| before.arm.contestant == Some(Contestant::Casgate));
            let ratio = after.ratio_to(before, quantity);
            let verdict = match (ratio, goals) {
                (Some(ratio), Some(goals)) if ratio <= goals.must => "reached",
                (Some(_), Some(_)) => "**must missed**",
                (Some(_), None) => "",
                (None, _) => "invalid",
            };
            *text += &format!(
                "| {workload} | {} | {}: {} | {}: {} | {} | {} | {verdict} |\n",
                quantity.unit(),
                before.arm.name,
                cell(before, quantity),
                after.arm.name,
                cell(after, quantity),
                number(ratio),
                goals.map_or(String::new(), |goals| format!("≤ {:.2}", goals.must)),
            );
        }
    }
}

/// Where another build of casgate was given.
fn before(text: &mut String, outcome: &Outcome) {
    let mut is_first = true;
    let works = outcome
        .outcomes
        .iter()
        .filter(|(workload, _)| !workload.is_of_each_alone());
    for (workload, arms) in works {
        for (quantity, _) in workload.quantities() {
            let Some((before, after)) = arm(arms, Contestant::Before).zip(arm(arms, Contestant::Casgate)) else {
                continue;
            };
            if is_first {
                *text += "\nBeside another build:\n\n| work | what | before | now | ratio |\n|---|---|---|---|---|\n";
                is_first = false;
            }
            let ratio = number(after.ratio_to(before, quantity));
            let (before, after) = (cell(before, quantity), cell(after, quantity));
            *text += &format!("| {workload} | {} | {before} | {after} | {ratio} |\n", quantity.unit());
        }
    }
}

fn errors(text: &mut String, outcome: &Outcome) {
    let arms = outcome
        .outcomes
        .iter()
        .flat_map(|(workload, arms)| arms.iter().map(move |arm| (workload, arm)));
    let mut lines = arms.filter(|(_, arm)| !arm.errors.is_empty()).peekable();
    if lines.peek().is_some() {
        *text += "\nWhat went wrong, which makes the row invalid:\n\n";
    }
    for (workload, arm) in lines {
        *text += &format!("- {workload}, {}: {}\n", arm.arm.name, arm.errors.join("; "));
    }
}

fn cell(arm: &ArmOutcome, quantity: Quantity) -> String {
    match arm.median(quantity) {
        Some(value) => number(Some(value)),
        None => "**failed**".to_owned(),
    }
}

/// With three digits that mean something.
fn number(value: Option<f64>) -> String {
    match value {
        None => String::new(),
        Some(value) if value >= 100.0 => format!("{value:.0}"),
        Some(value) if value >= 10.0 => format!("{value:.1}"),
        Some(value) => format!("{value:.2}"),
    }
}

fn machine() -> String {
    let cpus = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let models: Vec<&str> = cpus
        .lines()
        .filter_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map(|(_, model)| model)
        .collect();
    let model = models.first().copied().unwrap_or("a machine");
    format!("{model}, {} cores, Linux {}", models.len(), output("uname", &["-r"]))
}

fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    output.map_or_else(
        |error| error.to_string(),
        |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
    )
}
