#!/bin/sh -eu
# Builds gs_lift._native for aarch64 and takes tools/check_portability.py's step with it, emulated.
#
#     apt-get install g++-aarch64-linux-gnu qemu-user && tools/check_aarch64.sh build/aarch64
#
# Debian 12 or a relative of it with Python 3.11, in the environment that gs_lift is developed in. Into the folder come
# Debian's own Python for arm64, NumPy's wheel and the build, about 200 MB; nothing is installed.
folder=$(realpath -m "$1") project=$(realpath "$(dirname "$0")/..")
mkdir -p "$folder/apt/partial" "$folder/debs" && cd "$folder/debs"

apt="-qq -o APT::Architecture=arm64 -o APT::Architectures=arm64 -o Dir::State::Lists=$folder/apt -o Dir::Cache=$folder/apt"
apt-get $apt update
apt-get $apt download python3.11-minimal libpython3.11-minimal libpython3.11-stdlib libpython3.11-dev libc6 libgcc-s1 \
    libstdc++6 libgomp1 zlib1g libexpat1 libffi8 libssl3 libbz2-1.0 liblzma5
for package in *.deb; do dpkg -x "$package" "$folder/sysroot"; done

numpy=$(python -c 'import numpy; print(numpy.__version__)')
pip download -q --no-deps --only-binary :all: --python-version 3.11 --platform manylinux_2_28_aarch64 \
    --platform manylinux_2_27_aarch64 --platform manylinux2014_aarch64 -d "$folder/wheels" "numpy==$numpy"
python -m zipfile -e "$folder"/wheels/numpy-"$numpy"*.whl "$folder/site-packages"

cmake -S "$project" -B "$folder/build" -G Ninja -DCMAKE_BUILD_TYPE=Release \
    -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++ \
    -DCMAKE_CXX_FLAGS="-isystem $folder/sysroot/usr/include" \
    -DPython_EXECUTABLE="$(command -v python)" -DPython_INCLUDE_DIR="$folder/sysroot/usr/include/python3.11"
cmake --build "$folder/build"

python "$project/tools/check_portability.py" --aarch64 "$folder"
