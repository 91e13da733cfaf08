//! Programs on a pod's devices by filters of a clsact qdisc, for kernels before 6.6.
//!
//! They outlive the agent by themselves, and are told by their priority, handle and name.

use std::{collections::BTreeSet, io, os::fd::AsRawFd as _};

use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP};
use netlink_packet_route::{
    RouteNetlinkMessage,
    tc::{TcAttribute, TcBpfFlags, TcFilterBpfOption, TcHandle, TcMessage, TcOption},
};

use super::{
    Error,
    devices::Device,
    programs::{Loaded, Program},
    tcx::attach_error,
};
use crate::{
    dataplane::{
        filters::{HANDLE, PRIORITY},
        qdisc,
    },
    facts::IfIndex,
    netlink::Talk,
};

/// The devices that have the qdisc.
pub(super) fn carriers(talk: &Talk) -> Result<BTreeSet<IfIndex>, Error> {
    let question = RouteNetlinkMessage::GetQueueDiscipline(TcMessage::default());
    let answers = talk.ask(question, NLM_F_DUMP).map_err(|source| Error::Netlink {
        what: "qdiscs",
        source,
    })?;
    let carrier = |answer| {
        if let RouteNetlinkMessage::NewQueueDiscipline(qdisc) = answer
            && qdisc.header.parent == TcHandle::CLSACT
        {
            Some(IfIndex(qdisc.header.index.cast_unsigned()))
        } else {
            None
        }
    };
    Ok(answers.into_iter().filter_map(carrier).collect())
}

/// Sees to it that the program is on the device. `true` if something had to be done for it.
pub(super) fn ensure(talk: &Talk, device: &Device, loaded: &Loaded) -> Result<bool, Error> {
    let fail = |source| attach_error(device, loaded.program(), source);
    let runs = runs(talk, device.index, loaded.program()).map_err(fail)?;
    if runs.is_some_and(|runs| runs.program == loaded.number()) {
        return Ok(false);
    }
    qdisc::add_by(talk, device.index).map_err(fail)?;
    let mut filter = message(device.index, loaded.program());
    let program = loaded.handle().as_raw_fd().cast_unsigned();
    let options = [
        TcFilterBpfOption::ProgFd(program),
        TcFilterBpfOption::ProgName(loaded.program().name().into()),
        TcFilterBpfOption::Flags(TcBpfFlags::DirectAction),
    ];
    filter.attributes = vec![
        TcAttribute::Kind("bpf".into()),
        TcAttribute::Options(options.map(TcOption::Bpf).into()),
    ];
    // Without NLM_F_EXCL: a filter that is there takes the new program without a packet in between.
    let flags = NLM_F_ACK | NLM_F_CREATE;
    talk.ask(RouteNetlinkMessage::NewTrafficFilter(filter), flags)
        .map_err(fail)?;
    Ok(true)
}

/// Takes our programs off a device, but for one that is to stay.
pub(super) fn take_off_others(talk: &Talk, device: &Device, stays: Option<Program>) -> Result<(), Error> {
    let mut done = BTreeSet::new();
    for program in Program::ALL {
        if stays.is_some_and(|stays| stays.place() == program.place()) || !done.insert(program.place()) {
            continue;
        }
        let fail = |source| attach_error(device, program, source);
        let runs = runs(talk, device.index, program).map_err(fail)?;
        let ours = |name: &str| Program::ALL.iter().any(|program| program.name() == name);
        if !runs.is_some_and(|runs| ours(&runs.name)) {
            continue;
        }
        let mut filter = message(device.index, program);
        filter.attributes = vec![TcAttribute::Kind("bpf".into())];
        match talk.ask(RouteNetlinkMessage::DelTrafficFilter(filter), NLM_F_ACK) {
            Err(error) if !qdisc::is_absent(&error) => return Err(fail(error)),
            Ok(_) | Err(_) => {}
        }
    }
    Ok(())
}

/// Removes a qdisc of ours if nobody uses it.
pub(super) fn remove_qdisc(talk: &Talk, device: IfIndex) -> Result<(), Error> {
    qdisc::remove_if_unused_by(talk, device)
        .map(drop)
        .map_err(|source| Error::Netlink {
            what: "removal of a clsact qdisc",
            source,
        })
}

fn runs(talk: &Talk, device: IfIndex, program: Program) -> io::Result<Option<qdisc::Runs>> {
    qdisc::filter(talk, device, program.place(), PRIORITY, HANDLE.into())
}

fn message(device: IfIndex, program: Program) -> TcMessage {
    let parent = qdisc::parent(qdisc::direction(program.place()));
    let handle = TcHandle::from(u32::from(HANDLE));
    let mut filter = qdisc::message(device, handle, parent);
    // The protocol is in the lower half, in network order.
    let every = u16::try_from(libc::ETH_P_ALL).unwrap_or_default().to_be();
    filter.header.info = u32::from(PRIORITY) << 16 | u32::from(every);
    filter
}
