from fastgw._core.ws_messages import Inspection

class Rules:
    def __init__(
        self,
        idle_ns: int,
        max_age_ns: int = ...,
        max_frame: int = ...,
        max_message: int = ...,
        every_ns: int = ...,
        burst: int = ...,
        limited: str = ...,
        ping_ns: int = ...,
        pong_ns: int = ...,
        pinged: str = ...,
        recheck: bool = ...,
        strict: bool = ...,
        inspection: Inspection | None = ...,
    ) -> None: ...
