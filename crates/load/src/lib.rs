//! The measuring engine. What a run is stands in its plan; what it gave, in its summary; between them a core that does no
//! IO, so that the same schedule, dispatch and recording run against sockets and against simulated time.

pub mod stats;
