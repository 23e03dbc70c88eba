from fastgw._core.accept import Codec

class H2Codec(Codec):
    max_streams: int
    window: int
    header_list: int
    resets: int
    spare_frames: int
    def __init__(
        self,
        *,
        max_streams: int = ...,
        window: int = ...,
        header_list: int = ...,
        resets: int = ...,
        spare_frames: int = ...,
    ) -> None: ...
