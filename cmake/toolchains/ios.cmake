# Cross-compiles for iOS with Xcode's clang: on macOS only, where CMake finds the SDK itself.
set(CMAKE_SYSTEM_NAME iOS)
set(CMAKE_OSX_ARCHITECTURES arm64)
set(CMAKE_OSX_SYSROOT iphoneos)
set(CMAKE_OSX_DEPLOYMENT_TARGET 16.4 CACHE STRING "oldest iOS")
set(CMAKE_XCODE_ATTRIBUTE_SUPPORTED_PLATFORMS iphoneos)
