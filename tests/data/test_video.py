import numpy as np
import pytest
from PIL import Image

from crossdraft.core.errors import DataError
from crossdraft.data.video import natural_key, read_grey_frames, read_image, read_image_folder, read_video


def pictures(count: int) -> np.ndarray:
    frames = np.random.default_rng(3).integers(0, 256, (count, 32, 48, 3), dtype=np.uint8)
    frames[:, 0, 0, 0] = np.arange(count)
    return frames


def test_eight_uniform_frames_with_their_times(write_video):
    frames = pictures(20)
    video = read_video(write_video(frames))
    chosen = np.linspace(0, 19, 8).astype(int)
    np.testing.assert_array_equal(video.frames, frames[chosen])
    assert video.times_us.tolist() == [50_000 * int(i) for i in chosen]


def test_a_variable_frame_rate_keeps_its_times(write_video):
    times = [0, 10, 200, 210, 900, 1000]
    video = read_video(write_video(pictures(6), times), num_frames=None)
    assert video.times_us.tolist() == [1000 * t for t in times]


def test_a_short_video_repeats_frames(write_video):
    frames = pictures(3)
    video = read_video(write_video(frames))
    assert len(video) == 8
    assert set(video.frames[:, 0, 0, 0].tolist()) == {0, 1, 2}


def test_a_span_of_the_video(write_video):
    video = read_video(write_video(pictures(20)), num_frames=None, start_us=200_000, end_us=400_000)
    assert video.times_us.tolist() == [200_000, 250_000, 300_000, 350_000]
    with pytest.raises(DataError, match="the video runs from 0 to 950000 us"):
        read_video(write_video(pictures(20)), start_us=5_000_000)


def test_a_video_recorded_sideways_comes_upright(write_video):
    frames = np.zeros((10, 32, 48, 3), np.uint8)
    frames[:, :8, :8] = 255
    path = write_video(frames, name="phone.mp4")
    one = (1 << 16).to_bytes(4, "big")
    upright = one + bytes(12) + one + bytes(12) + (1 << 30).to_bytes(4, "big")
    turned = bytes(4) + one + bytes(4) + (-1 << 16).to_bytes(4, "big", signed=True) + bytes(4) + upright[20:]
    data = path.read_bytes()
    at = data.index(b"tkhd")
    assert data.count(upright, at) >= 1
    # the track's matrix, a quarter turn clockwise as phones held upright write it
    path.write_bytes(data[:at] + data[at:].replace(upright, turned, 1))
    video = read_video(path)
    assert video.frames.shape == (8, 48, 32, 3)
    assert video.frames[0, :8, -8:].min() > 200 and video.frames[0, :8, :8].max() < 50
    grey, _ = read_grey_frames(path, 48)
    assert grey.shape[1:] == (48, 32) and grey[0, :8, -8:].min() > 200


def test_a_raw_stream_without_times_or_counts(write_video, tmp_path):
    import av

    path = tmp_path / "bare.h264"
    with av.open(str(path), "w", format="h264") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 32, 48, "yuv420p"
        for picture in pictures(10):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    video = read_video(path, num_frames=None)
    assert len(video) == 10
    assert (np.diff(video.times_us) > 0).all()


def test_what_is_not_a_video(tmp_path, write_video):
    with pytest.raises(DataError, match="no such file"):
        read_video(tmp_path / "missing.mp4")
    with pytest.raises(DataError, match="is not a file"):
        read_video(tmp_path)
    text = tmp_path / "text.mp4"
    text.write_text("not a video at all\n" * 100)
    with pytest.raises(DataError, match=r"text.mp4: .*video") as raised:
        read_video(text)
    assert "\n" not in str(raised.value)
    empty = tmp_path / "empty.mp4"
    empty.write_bytes(b"")
    with pytest.raises(DataError, match="empty.mp4: "):
        read_video(empty)
    whole = write_video(pictures(5), name="whole.mp4")
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(whole.read_bytes()[:200])
    with pytest.raises(DataError, match="cut.mp4: "):
        read_video(cut)


def test_a_file_with_sound_only(tmp_path):
    import av

    path = tmp_path / "sound.mka"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(DataError, match="no pictures"):
        read_video(path)


def test_images_and_folders_in_natural_order(tmp_path):
    frames = pictures(12)
    for i, frame in enumerate(frames):
        Image.fromarray(frame).save(tmp_path / f"frame{i}.png")
    (tmp_path / "notes.txt").write_text("passed over")
    folder = read_image_folder(tmp_path, num_frames=None)
    assert folder.frames[:, 0, 0, 0].tolist() == list(range(12))
    assert folder.times_us.tolist() == [50_000 * i for i in range(12)]
    assert len(read_image_folder(tmp_path)) == 8
    image = read_image(tmp_path / "frame7.png")
    np.testing.assert_array_equal(image.frames, frames[7:8])
    assert image.times_us.tolist() == [0]


def test_folders_and_images_that_cannot_be_read(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        read_image_folder(tmp_path / "missing")
    with pytest.raises(DataError, match="no pictures"):
        read_image_folder(tmp_path)
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    with pytest.raises(DataError, match="not a picture"):
        read_image(tmp_path / "broken.png")
    (tmp_path / "broken.png").unlink()
    Image.fromarray(pictures(1)[0]).save(tmp_path / "a.png")
    Image.fromarray(pictures(1)[0][:10]).save(tmp_path / "b.png")
    with pytest.raises(DataError, match="differ in size"):
        read_image_folder(tmp_path)


def test_natural_key():
    names = ["frame10.png", "frame2.png", "frame02.png", "a", "10", "9"]
    assert sorted(names, key=natural_key)[:2] == ["9", "10"]
    assert sorted(["f10", "f2"], key=natural_key) == ["f2", "f10"]


def test_grey_frames_are_scaled_and_timed(write_video):
    told: list[int] = []
    grey, times = read_grey_frames(write_video(pictures(6)), 24, end_us=200_000, progress=told.append)
    assert grey.shape == (4, 16, 24) and grey.dtype == np.uint8
    assert times.tolist() == [0, 50_000, 100_000, 150_000]
    assert told == [1, 2, 3, 4]
