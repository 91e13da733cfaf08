//! The report as a picture: a panel for each place of the proxy, in it the ratios to the uncaptured as grouped bars,
//! and the goals as lines across the figures that they are about.

use std::fmt::Write as _;

use anyhow::Result;

use crate::redirect::report::{FIGURES, Goal, Group, Line, Report};

const MARGIN: f64 = 56.0;
const TITLE: f64 = 64.0;
const PANEL_WIDTH: f64 = 1000.0;
const PLOT_HEIGHT: f64 = 240.0;
/// Room below a plot for the names of the figures and the legend.
const FOOT: f64 = 76.0;
const PANEL_HEIGHT: f64 = TITLE + PLOT_HEIGHT + FOOT;
/// Room between two groups of bars.
const GAP: f64 = 40.0;
/// The same in both panels.
const UNCAPTURED: &str = "#4d4d4d";
const SLUICE: [&str; 2] = ["#1b6ca8", "#6aaed6"];
const IPTABLES: [&str; 2] = ["#8a5a00", "#c98a2b"];
const GOAL: &str = "#b22222";

/// SVG, complete with its own style.
pub(crate) fn draw(report: &Report) -> Result<String> {
    let Report {
        kernel,
        cpus,
        rounds,
        groups,
        goals,
        costs: _,
    } = report;
    let panels: f64 = groups.iter().map(|_| PANEL_HEIGHT).sum();
    let (width, height) = (PANEL_WIDTH + 2.0 * MARGIN, panels + TITLE);
    let mut svg = format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="13">
<rect width="100%" height="100%" fill="white"/>
<text x="{MARGIN}" y="36" font-size="18">The way to the proxy, relative to the uncaptured one</text>
<text x="{MARGIN}" y="56" fill="#555">Linux {kernel}, {cpus} CPUs, {rounds} rounds in turns. Stream and connections: more is better. connect(): less is better.</text>
"##
    );
    let mut top = TITLE;
    for group in groups {
        panel(&mut svg, group, goals, top)?;
        top += PANEL_HEIGHT;
    }
    svg.push_str("</svg>\n");
    Ok(svg)
}

fn panel(svg: &mut String, group: &Group, goals: &[Goal], top: f64) -> Result<()> {
    let Group {
        proxy,
        unrest: _,
        contenders,
    } = group;
    let goals: Vec<&Goal> = goals
        .iter()
        .filter(|goal| contenders.iter().any(|line| line.name == goal.contender))
        .collect();
    let scale = PLOT_HEIGHT / highest(contenders, &goals);
    let (plot, floor) = (top + TITLE, top + TITLE + PLOT_HEIGHT);
    writeln!(
        svg,
        r#"<text x="{MARGIN}" y="{:.1}" font-size="15" font-weight="bold">{proxy}</text>"#,
        plot - 30.0
    )?;
    for tick in [0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0] {
        let y = floor - tick * scale;
        if y >= plot {
            let right = MARGIN + PANEL_WIDTH;
            writeln!(
                svg,
                r##"<line x1="{MARGIN}" x2="{right}" y1="{y:.1}" y2="{y:.1}" stroke="#ddd"/>
<text x="{:.1}" y="{:.1}" text-anchor="end" fill="#555">{tick:.1}</text>"##,
                MARGIN - 8.0,
                y + 4.0
            )?;
        }
    }
    let figure_width = PANEL_WIDTH / 4.0;
    let mut left = MARGIN;
    for (place, (name, _)) in FIGURES.into_iter().enumerate() {
        bars(svg, contenders, place, (left, floor), scale)?;
        writeln!(
            svg,
            r#"<text x="{:.1}" y="{:.1}" text-anchor="middle">{name}</text>"#,
            left + figure_width / 2.0,
            floor + 20.0
        )?;
        for goal in goals.iter().filter(|goal| goal.figure == name) {
            let (right, y) = (left + figure_width - GAP / 4.0, floor - goal.line * scale);
            writeln!(
                svg,
                r#"<line x1="{:.1}" x2="{right:.1}" y1="{y:.1}" y2="{y:.1}" stroke="{GOAL}" stroke-dasharray="5 3"><title>{}: {} {} {}</title></line>"#,
                left + GAP / 4.0,
                goal.contender,
                goal.what,
                goal.bound.words(),
                goal.limit
            )?;
        }
        left += figure_width;
    }
    legend(svg, contenders, floor + 48.0)
}

/// The ratio at the upper edge.
fn highest(contenders: &[Line], goals: &[&Goal]) -> f64 {
    let ratios = contenders
        .iter()
        .flat_map(|line| line.figures().map(|figure| figure.ratio));
    let lines = goals.iter().map(|goal| goal.line);
    ratios.chain(lines).fold(1.0, f64::max) * 1.08
}

/// One figure of all contenders.
fn bars(svg: &mut String, contenders: &[Line], figure: usize, origin: (f64, f64), scale: f64) -> Result<()> {
    let (left, floor) = origin;
    let count: f64 = contenders.iter().map(|_| 1.0).sum();
    let width = (PANEL_WIDTH / 4.0 - GAP) / count;
    let mut x = left + GAP / 2.0;
    for (line, colour) in contenders.iter().zip(colours(contenders)) {
        let (ratio, median) = (line.figures()[figure].ratio, line.figures()[figure].median);
        let height = ratio * scale;
        writeln!(
            svg,
            r#"<rect x="{x:.1}" y="{:.1}" width="{:.1}" height="{height:.1}" fill="{colour}"><title>{}: {median:.2}</title></rect>
<text x="{:.1}" y="{:.1}" text-anchor="middle" font-size="11" fill="white">{ratio:.2}</text>"#,
            floor - height,
            width - 4.0,
            line.name,
            x + width / 2.0 - 2.0,
            floor - 6.0
        )?;
        x += width;
    }
    Ok(())
}

fn legend(svg: &mut String, contenders: &[Line], y: f64) -> Result<()> {
    let mut x = MARGIN;
    for (line, colour) in contenders.iter().zip(colours(contenders)) {
        writeln!(
            svg,
            r#"<rect x="{x:.1}" y="{:.1}" width="12" height="12" fill="{colour}"/>
<text x="{:.1}" y="{y:.1}">{}</text>"#,
            y - 11.0,
            x + 18.0,
            line.name
        )?;
        x += 200.0;
    }
    writeln!(
        svg,
        r#"<line x1="{x:.1}" x2="{:.1}" y1="{:.1}" y2="{:.1}" stroke="{GOAL}" stroke-dasharray="5 3"/>
<text x="{:.1}" y="{y:.1}">goals</text>"#,
        x + 24.0,
        y - 5.0,
        y - 5.0,
        x + 30.0
    )?;
    Ok(())
}

fn colours(contenders: &[Line]) -> Vec<&'static str> {
    let (mut sluice, mut iptables) = (SLUICE.iter().cycle(), IPTABLES.iter().cycle());
    let colour = |line: &Line| {
        let family = if line.name.starts_with("sluice") {
            sluice.next()
        } else if line.name.starts_with("iptables") {
            iptables.next()
        } else {
            None
        };
        family.copied().unwrap_or(UNCAPTURED)
    };
    contenders.iter().map(colour).collect()
}
